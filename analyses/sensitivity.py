"""Analysis 5: how the result depends on β, c, learning rate, divergence, JSD weight, completion length and steps.

``sensitivity.csv``: change of accuracy and marker rate from base for every setting, the study's own setting (from the
main block, first training seed) among them, with the distance travelled. ``figures/sensitivity.svg`` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.effects import bars
from analyses.results import Study, contrasts_of, over_bases
from opsd_eval.plotstyle import ARM_COLOURS, INK, Room, footnote, label_room, new_figure
from opsd_eval.tables import BASE, Frame

METRICS = ("avg@8", "p_check", "step_accuracy", "marker_rate")
OWN = "main"


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table and the figure."""
    import pandas as pd

    table = pd.DataFrame([row for block in blocks for row in rows(study, block)])
    return study.table_and_figure("sensitivity", table, figure, blocks=blocks)


def rows(study: Study, block: str) -> Iterator[dict[str, Any]]:
    """Every arm of a block against base, and the main block's arm of the same target where it has the same seeds."""
    import pandas as pd

    plan, tried = study.config.block(block), study.select([block])
    worlds = set(tried.loc[tried["arm"] != BASE, "world"])
    own = study.select([OWN])
    own = own[own["world"].isin(list(worlds)) & (own["train_seed"].isna() | own["train_seed"].isin(plan.train_seeds))]
    targets = {arm.partition("_")[0] for arm in plan.arms}
    values = pd.concat([tried, own[own["arm"].isin(targets)]], ignore_index=True)
    values = values[values["metric"].isin(METRICS) & values["split"].isin(plan.splits or study.config.splits)]
    log: Frame = pd.concat([study.training([block]), study.training([OWN])], ignore_index=True)
    log = log[log["train_seed"].isin(plan.train_seeds)] if len(log) else log
    for arm in sorted(targets) + list(plan.arms):
        table = contrasts_of(values, arm, BASE, level=study.config.level)
        for row in table.to_dict("records"):
            here = log[(log["arm"] == arm) & (log["world"] == row["world"])] if len(log) else log
            ends = here[here["step"] == here.groupby(["base_seed", "train_seed"])["step"].transform("max")]
            kl = over_bases(ends, "kl_base", level=study.config.level)
            yield {"block": block, **row, "kl_at_end": kl.value, "kl_low": kl.low, "kl_high": kl.high}


def figure(table: Frame, study: Study) -> Any:
    """Change of accuracy by setting: a panel a block and world, intervals as bars."""
    shown = table[(table["metric"] == METRICS[0]) & (table["split"] == study.config.in_distribution)]
    panels = list(dict.fromkeys(zip(shown["block"], shown["world"], strict=True)))
    if not panels:
        return None
    across = 3
    room = Room(left=label_room(list(shown["arm"])), gap=label_room(list(shown["arm"])), title=0.35)
    drawn, axes = new_figure(-(-len(panels) // across), across, width=12, height=2.3, room=room)
    for panel, (block, world) in zip(axes.flat, panels, strict=False):
        part = shown[(shown["block"] == block) & (shown["world"] == world)].reset_index(drop=True)
        for at, row in part.iterrows():
            colour = ARM_COLOURS[str(row["arm"]).partition("_")[0]]
            panel.errorbar(row["difference"], at, xerr=bars(row), fmt="o", color=colour, capsize=3)
        panel.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_yticks(range(len(part)), list(part["arm"]))
        panel.invert_yaxis()
        panel.set_title(f"{block.removeprefix('sensitivity_')} · {world}", fontsize=9)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    footnote(drawn, f"change of {METRICS[0]} from base, in distribution; bars: {study.config.level:.0%} interval")
    return drawn
