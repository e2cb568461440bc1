"""Analysis 8, beside the regime map: other numbers of the construction, one at a time.

``constructions.csv``: the base's level and each arm's change of accuracy by student size, strength of the base, slip
rate and what the reference gives away. The shipped construction (main block) stands among the values of its axis.
``figures/constructions.svg`` shows it, a panel an axis and teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.construction_bases import HUNCH, RECIPES
from analyses.results import Study, contrasts_of
from opsd_eval.plotstyle import INK, colours, footnote, legend, markers, new_figure
from opsd_eval.tables import BASE, Frame
from opsd_eval.testbed.design import DESIGN

ARMS = ("standard", "purified")
WIDTHS = {"narrow": RECIPES["narrow"][1].hidden, "hunch": HUNCH.hidden, "wide": RECIPES["wide"][1].hidden}
STEPS = {"weak": RECIPES["weak"][1].steps, "hunch": HUNCH.steps}
SLIPS = {"few_slips": RECIPES["few_slips"][2].slip_rate, "slips": DESIGN.slip_rate,
         "many_slips": RECIPES["many_slips"][2].slip_rate}  # fmt: skip
GIVEN = {"nothing": "_empty", "the answer": "_answer", "the solution": ""}
TEACHERS = {"r10": "rarely checks", "r100": "always checks"}


def places() -> Iterator[tuple[str, str, Any, str, str]]:
    """(axis, teacher, value, world, suffix of the arms) of every cell that the table shows."""
    for tag, teacher in TEACHERS.items():
        for axis, values in (("width", WIDTHS), ("pretraining steps", STEPS)):
            for label, value in values.items():
                yield axis, teacher, value, f"{label}_{tag}", ""
        for value, suffix in GIVEN.items():
            yield "reference gives", teacher, value, f"hunch_{tag}", suffix
    for world, rate in SLIPS.items():
        yield "slip rate", "never slips", rate, world, ""


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table and the figure."""
    return study.table_and_figure("constructions", constructions(study, blocks), figure, blocks=blocks)


def constructions(study: Study, blocks: Sequence[str]) -> Frame:
    """One row an axis, teacher, value, arm, split and metric: arm − base, and the base's own mean."""
    import pandas as pd

    values = study.select(blocks)
    values = values[values["metric"].isin([f"avg@{study.config.draws}", "p_check"])]
    parts = []
    for axis, teacher, value, world, suffix in places():
        here = values[values["world"] == world]
        levels = here[here["arm"] == BASE].groupby(["split", "metric"])["value"].mean()
        for arm in ARMS:
            found = contrasts_of(here, f"{arm}{suffix}", BASE, level=study.config.level)
            if len(found):
                level = [levels[row["split"], row["metric"]] for row in found.to_dict("records")]
                parts.append(found.assign(axis=axis, teacher=teacher, given=value, arm=arm, base_level=level))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    first = ["axis", "teacher", "given", "arm", "split", "metric", "base_level"]
    return table[[*first, *[name for name in table.columns if name not in first]]]


def figure(table: Frame, study: Study) -> Any:
    """A panel an axis and teacher: change of accuracy of both arms by the axis's value, in distribution."""
    metric = f"avg@{study.config.draws}"
    shown = table[(table["metric"] == metric) & (table["split"] == study.config.in_distribution)]
    panels = list(dict.fromkeys(zip(shown["axis"], shown["teacher"], strict=True)))
    if not panels:
        return None
    across = 4
    drawn, axes = new_figure(-(-len(panels) // across), across, width=12, height=2.6)
    palette, marks = colours([BASE, *ARMS]), markers([BASE, *ARMS])
    for panel, (axis, teacher) in zip(axes.flat, panels, strict=False):
        part = shown[(shown["axis"] == axis) & (shown["teacher"] == teacher)]
        names = list(dict.fromkeys(part["given"]))
        for arm in ARMS:
            rows = part[part["arm"] == arm]
            bars = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
            panel.errorbar([names.index(value) for value in rows["given"]], rows["difference"], yerr=bars,
                           color=palette[arm], marker=marks[arm], label=arm, capsize=2)  # fmt: skip
        panel.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_xticks(range(len(names)), [str(name) for name in names], fontsize=8)
        panel.set_title(f"{axis} · teacher {teacher}", fontsize=8)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    axes[0, 0].set_ylabel(f"{metric}, arm − base")
    legend(drawn, axes[0, 0])
    footnote(drawn, f"last checkpoint, in distribution; bars: {study.config.level:.0%} interval across base seeds, "
                    "runs and problems")  # fmt: skip
    return drawn
