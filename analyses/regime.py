"""Analysis 8: the regime map. How often the teacher still checks, on one and the same student, and what each arm does.

``regime.csv``: change from base by arm and recovery (share of the teacher's traces that check), with intervals across
base seeds, training seeds and problems. ``figures/regime_map.svg``: accuracy and P(check) by arm over recovery, the
base's own check rate marked: left of it imitation removes the check, right of it reinforces it. One base a seed serves
the whole sweep (a tag in the reference tells the constructions apart), so arms and recoveries are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.results import Study, contrasts_of
from opsd_eval.plotstyle import INK, colours, footnote, legend, markers, new_figure
from opsd_eval.tables import BASE, Frame
from opsd_eval.testbed.design import DESIGN

ARMS = ("standard", "purified", "credited")
SWEEP = {f"hunch_{tag}": share for tag, share in DESIGN.recovery.items()}


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table and the map."""
    return study.table_and_figure("regime", regime(study, blocks), figure, blocks=blocks, figure="regime_map")


def regime(study: Study, blocks: Sequence[str]) -> Frame:
    """Arm − base by recovery, split and metric."""
    import pandas as pd

    values = study.select(blocks)
    values = values[values["world"].isin(SWEEP) & values["metric"].isin([f"avg@{study.config.draws}", "p_check"])]
    parts = [contrasts_of(values, arm, BASE, level=study.config.level) for arm in ARMS]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    table.insert(1, "recovery", [SWEEP[world] for world in table["world"]])
    return table.sort_values(["split", "metric", "arm", "recovery"], kind="stable").reset_index(drop=True)


def figure(table: Frame, study: Study) -> Any:
    """Rows: metric; columns: split; lines: arms over recovery."""
    splits = [s for s in ("id", "longer") if s in set(table["split"])]
    metrics = [m for m in (f"avg@{study.config.draws}", "p_check") if m in set(table["metric"])]
    drawn, axes = new_figure(len(metrics), len(splits), width=10, height=2.7)
    palette, marks = colours([BASE, *ARMS]), markers([BASE, *ARMS])
    for at, metric in enumerate(metrics):
        for column, split in enumerate(splits):
            panel = axes[at, column]
            for arm in ARMS:
                part = table[(table["arm"] == arm) & (table["split"] == split) & (table["metric"] == metric)]
                bars = [part["difference"] - part["low"], part["high"] - part["difference"]]
                panel.errorbar(part["recovery"], part["difference"], yerr=bars, color=palette[arm], marker=marks[arm],
                               label=arm, capsize=2)  # fmt: skip
            panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
            panel.axvline(DESIGN.check_rate, color=INK, linewidth=0.8, linestyle="--")
            panel.set_title(f"{metric} · {split}")
            panel.set_xlabel("share of the teacher's traces that check")
        axes[at, 0].set_ylabel("arm − base")
    legend(drawn, axes[0, 0])
    footnote(drawn, f"last checkpoint; bars: {study.config.level:.0%} interval across base seeds, runs and problems; "
                    f"dashed: the base's check rate in its corpus ({DESIGN.check_rate:g})")  # fmt: skip
    return drawn
