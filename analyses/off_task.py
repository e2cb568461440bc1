"""Analysis 9: off-task forgetting. What does training on one family of problems do to another that the base knows?

The bases (``analyses/two_family_bases.py``) know hunch and search. ``off_task.csv``: change from base of every arm on
problems like those it was trained on (``own``) and on the other family's (``other``), beside the base's level and the
distance travelled. ``figures/off_task.svg`` sets one change of accuracy against the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.effects import bars, effects
from analyses.results import Study
from opsd_eval.plotstyle import INK, colours, footnote, legend, markers, new_figure
from opsd_eval.tables import BASE, Frame

TASKS = ("own", "other")


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table and the figure."""
    return study.table_and_figure("off_task", off_task(study, blocks), figure, blocks=blocks)


def off_task(study: Study, blocks: Sequence[str]) -> Frame:
    """The rows of :func:`analyses.effects.effects`, with the task and the base's own mean."""
    table = effects(study, blocks)
    if table.empty:
        return table
    values = study.select(blocks)
    levels = values[values["arm"] == BASE].groupby(["world", "split", "metric"])["value"].mean()
    keys = table[["world", "split", "metric"]].itertuples(index=False)
    tasks = [TASKS[split != study.config.in_distribution] for split in table["split"]]
    return table.assign(task=tasks, base_level=[levels[tuple(key)] for key in keys])


def figure(table: Frame, study: Study) -> Any:
    """Change of accuracy on the other family against that on the own one, a panel a world."""
    shown = table[table["metric"] == f"avg@{study.config.draws}"]
    worlds, arms = list(dict.fromkeys(shown["world"])), list(dict.fromkeys(shown["arm"]))
    drawn, axes = new_figure(1, len(worlds), width=2.6 + 3.0 * len(worlds), height=3.4)
    palette, marks = colours([BASE, *arms]), markers([BASE, *arms])
    for panel, world in zip(axes[0], worlds, strict=True):
        for arm in arms:
            here = shown[(shown["world"] == world) & (shown["arm"] == arm)].set_index("task")
            if set(TASKS) <= set(here.index):
                own, other = (here.loc[task] for task in TASKS)
                panel.errorbar(own["difference"], other["difference"], xerr=bars(own), yerr=bars(other),
                               fmt=marks[arm], color=palette[arm], label=arm, capsize=2)  # fmt: skip
        panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_title(f"trained in {world}")
        panel.set_xlabel("accuracy on its own task, arm − base")
    axes[0][0].set_ylabel("on the other family, arm − base")
    legend(drawn, axes[0][0])
    footnote(drawn, f"last checkpoint; bars: {study.config.level:.0%} interval across base seeds and problems")
    return drawn
