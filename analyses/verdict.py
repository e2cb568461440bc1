"""Analysis 10: does the teacher's verdict on an ending, which ``credited`` learns from, agree with the grader?

``verdict.csv``: mean verdict (opsd_train/outcome.py) of right and of wrong completions of each base, one sample a
problem, with intervals over problems, and the share of completions that a cut at one half judges as the grader does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analyses.cells import find_base
from analyses.four import scored
from analyses.results import Study
from opsd_eval import stats
from opsd_eval.testbed.rates import is_right

PROBLEMS = 200


def make(study: Study, blocks: Sequence[str]) -> list[Path]:
    """Write the table."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for label, seed in sorted({(c.world, c.base_seed) for c in study.cells(blocks)}):
        there = study.config.construction(label)
        folder, _ = find_base(there, seed)
        if folder:
            found = judged(folder, there.world, study.config.level)
            rows += [{"world": label, "base_seed": seed, **row} for row in found]
    return [study.table("verdict", pd.DataFrame(rows), blocks=blocks)]


def judged(folder: str, world: str, level: float) -> Iterator[dict[str, Any]]:
    """Mean verdict of right and wrong completions, and agreement with the grader."""
    import torch

    from opsd_train.outcome import verdicts

    pairs: list[tuple[bool, float]] = []
    for one in scored(folder, world, n=PROBLEMS):
        ids = torch.tensor(one.ids)[:, None]
        ratio = (one.logp["teacher"].gather(1, ids) - one.logp["base"].gather(1, ids)).exp()[:, 0]
        pairs.append((is_right(one.problem, one.text), float(verdicts(ratio, [len(ids)], [one.finished]))))
    groups = {
        "verdict on right completions": [v for right, v in pairs if right],
        "verdict on wrong completions": [v for right, v in pairs if not right],
        "agrees with the grader": [float((v > 0.5) == right) for right, v in pairs],
    }
    for what, values in groups.items():
        found = stats.mean_estimate(values, level=level)
        yield {"what": what, "estimate": found.value, "low": found.low, "high": found.high, "n": found.n_problems}
