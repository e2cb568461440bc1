"""Analysis 9: how early the answer is known, and semantic diversity, before training and after.

``probed.csv``: level of base and of each arm's last checkpoint, and the change from base, in distribution. An early
answer is what the model gives when its own completion is cut and a cue forces the answer (``opsd-eval probe``);
embeddings are MiniLM's.
``figures/probed.svg`` shows the changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.results import Study
from analyses.stages import EARLY_ANSWER, EMBEDDED
from analyses.support import KEPT
from opsd_eval.plotstyle import INK, colours, footnote, legend, markers, new_figure
from opsd_eval.tables import BASE, Frame

SUFFIX = "_probed"
ARMS = (f"standard{SUFFIX}", f"purified{SUFFIX}")


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table and the figure."""
    table = study.scorecard(blocks, ARMS)
    table = table[table["metric"].isin((*EARLY_ANSWER, *EMBEDDED)) & (table["split"] == study.config.in_distribution)]
    contrasts = [contrast.replace(SUFFIX, "") for contrast in table["contrast"]]
    table = table[KEPT].assign(arm=table["arm"].str.removesuffix(SUFFIX), contrast=contrasts)
    return study.table_and_figure("probed", table, figure, blocks=blocks)


def figure(table: Frame, study: Study) -> Any:
    """A panel a metric: change from base of both arms, world by world."""
    arms = [arm.removesuffix(SUFFIX) for arm in ARMS]
    worlds = list(dict.fromkeys(table["world"]))
    metrics = [m for m in (*EARLY_ANSWER, *EMBEDDED) if m in set(table["metric"])]
    across = 4
    drawn, axes = new_figure(-(-len(metrics) // across), across, width=12, height=2.6)
    palette, marks = colours([BASE, *arms]), markers([BASE, *arms])
    for panel, metric in zip(axes.flat, metrics, strict=False):
        for offset, arm in ((-0.12, arms[0]), (0.12, arms[1])):
            rows = table[(table["metric"] == metric) & (table["contrast"] == f"{arm}-{BASE}")]
            bars = [rows["difference"] - rows["difference_low"], rows["difference_high"] - rows["difference"]]
            panel.errorbar([worlds.index(w) + offset for w in rows["world"]], rows["difference"], yerr=bars,
                           fmt=marks[arm], color=palette[arm], label=arm, capsize=2)  # fmt: skip
        panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_xticks(range(len(worlds)), worlds, fontsize=7)
        panel.set_title(metric, fontsize=9)
    for panel in axes.flat[len(metrics) :]:
        panel.set_visible(False)
    axes[0, 0].set_ylabel("arm − base")
    legend(drawn, axes[0, 0])
    footnote(drawn, f"last checkpoint, in distribution; bars: {study.config.level:.0%} interval across base seeds and "
                    "problems")  # fmt: skip
    return drawn
