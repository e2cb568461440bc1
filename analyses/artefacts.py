"""The artefacts of the study: one script each, registered here; ``analyses/README.md`` is the rendered table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyses import (
    ablation_table,
    constructions,
    decomposition,
    dynamics,
    effects,
    fork,
    marker_shift,
    mechanism,
    off_task,
    power,
    probed,
    regime,
    sensitivity,
    support,
    verdict,
)
from analyses.results import Study
from opsd_eval.names import lookup

SENSITIVITY = tuple(
    f"sensitivity_{what}" for what in ("beta", "clip", "lr", "divergence", "jsd", "length", "steps")
)


@dataclass(frozen=True)
class Artefact:
    """A table or figure: ``make(study, blocks)`` writes its files from records alone and returns their paths.

    ``counterpart`` is what it corresponds to in arXiv 2607.02234, or a dash.
    """

    name: str
    analysis: int
    make: Callable[[Study, Sequence[str]], list[Path]]
    blocks: tuple[str, ...]
    counterpart: str


ARTEFACTS: dict[str, Artefact] = {
    one.name: one
    for one in (
        Artefact("power", 0, power.make, (), "-"),
        Artefact("ablation_table", 1, ablation_table.make, ("main",), "main table"),
        Artefact("decomposition", 2, decomposition.make, ("main",), "figure 3"),
        Artefact("marker_shift", 3, marker_shift.make, ("main",), "figures 2 and 5"),
        Artefact("dynamics", 4, dynamics.make, ("main", "fine"), "figures 1 and 4"),
        Artefact("sensitivity", 5, sensitivity.make, SENSITIVITY, "figures 6 and 7"),
        Artefact("targets", 6, effects.named("targets"), ("targets",), "ablations of the target"),
        Artefact("controls", 7, effects.named("controls"), ("controls",), "-"),
        Artefact("regime", 8, regime.make, ("main", "regime", "derived"), "-"),
        Artefact("constructions", 8, constructions.make, ("main", "size", "strength", "slip_rate", "controls"), "-"),
        Artefact("support", 9, support.make, ("main",), "-"),
        Artefact("probed", 9, probed.make, ("probed",), "-"),
        Artefact("off_task", 9, off_task.make, ("off_task", "off_task_search"), "-"),
        Artefact("mechanism", 10, mechanism.make, ("main",), "-"),
        Artefact("derived", 10, effects.named("derived"), ("derived",), "-"),
        Artefact("verdict", 10, verdict.make, ("derived", "fork"), "-"),
        Artefact("fork", 10, fork.make, ("fork",), "-"),
    )
}


def make_all(study: Study, *, only: str | None = None) -> str:
    """Make one artefact or all of them; a line each: files and seconds, or that no cell of its blocks is finished."""
    names = list(ARTEFACTS) if only is None else [lookup("artefact", only, ARTEFACTS).name]
    have = {block.name for block in study.config.blocks}
    lines = []
    for name in names:
        one, start = ARTEFACTS[name], time.perf_counter()
        blocks = [block for block in one.blocks if block in have]
        if one.blocks and not (blocks and study.done(blocks)[0]):
            lines.append(f"{name}: no finished cell of {', '.join(one.blocks)}")
            continue
        files = ", ".join(path.relative_to(study.folder).as_posix() for path in one.make(study, blocks))
        lines.append(f"{name}: {files} ({time.perf_counter() - start:.1f} s)")
    return "\n".join(lines)
