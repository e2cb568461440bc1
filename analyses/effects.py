"""Analyses 6, 7, 10: what every arm of some blocks did to a base, one table and one figure each.

``<name>.csv``: change from base per world, split and metric, interval across base seeds, training seeds and problems,
beside the distance travelled (KL of student from base at the last step). The figure sets the change of accuracy against
that distance, because equal steps are not equal moves. The main block's standard and purified are shown for comparison
where they cover the same worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from analyses.results import Study, contrasts_of
from opsd_eval.plotstyle import INK, colours, footnote, legend, markers, new_figure
from opsd_eval.tables import BASE, Frame

METRICS = ("p_check", "step_accuracy", "p_wait_given_mismatch", "completion_tokens")
OWN = "main"


def named(name: str) -> Callable[[Study, Sequence[str]], list[Path]]:
    """The ``make`` of the artefact of this name."""

    def make(study: Study, blocks: Sequence[str]) -> list[Path]:
        return study.table_and_figure(name, effects(study, blocks), figure, blocks=blocks)

    return make


def effects(study: Study, blocks: Sequence[str]) -> Frame:
    """One row an arm, world, split and metric: arm − base, and how far the student went."""
    import pandas as pd

    worlds = {cell.world for cell in study.cells(blocks)}
    splits = {split for cell in study.cells(blocks) for split, _ in cell.sets}
    both = [*blocks, *([OWN] if OWN in {b.name for b in study.config.blocks} else [])]
    values = study.select(both)
    values = values[values["world"].isin(worlds) & values["split"].isin(splits)]
    values = values[values["metric"].isin([f"avg@{study.config.draws}", *METRICS])]
    log = study.training(both)
    parts = []
    for arm in dict.fromkeys(values["arm"]):
        if arm != BASE:
            found = contrasts_of(values, arm, BASE, level=study.config.level)
            if len(found):
                found["kl_at_end"] = [distance(log, arm, world) for world in found["world"]]
                parts.append(found)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def distance(log: Frame, arm: str, world: str) -> float:
    """Mean KL of student from base over the runs' last steps, in nats a token."""
    here = log[(log["arm"] == arm) & (log["world"] == world)] if len(log) else log
    if here.empty or "kl_base" not in here:
        return float("nan")
    return float(here[here["step"] == here["step"].max()]["kl_base"].mean())


def bars(row: Any) -> list[list[float]]:
    """The error bars of one row's difference."""
    return [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]


def figure(table: Frame, study: Study) -> Any:
    """Change of accuracy against distance, a panel a world."""
    metric = f"avg@{study.config.draws}"
    shown = table[(table["metric"] == metric) & (table["split"] == study.config.in_distribution)]
    worlds, arms = list(dict.fromkeys(shown["world"])), list(dict.fromkeys(table["arm"]))
    if not worlds:
        return None
    drawn, axes = new_figure(1, len(worlds), width=2.6 + 3.0 * len(worlds), height=3.4)
    palette, marks = colours([BASE, *arms]), markers([BASE, *arms])
    for panel, world in zip(axes[0], worlds, strict=True):
        for row in shown[shown["world"] == world].to_dict("records"):
            panel.errorbar(row["kl_at_end"], row["difference"], yerr=bars(row), fmt=marks[row["arm"]],
                           color=palette[row["arm"]], label=row["arm"], capsize=2)  # fmt: skip
        panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_xscale("log")
        panel.set_title(world)
        panel.set_xlabel("KL of student from base, nats a token")
    axes[0][0].set_ylabel(f"{metric}, arm − base")
    legend(drawn, axes[0][0], columns=7)
    footnote(drawn, f"last checkpoint, in distribution; bars: {study.config.level:.0%} interval")
    return drawn
