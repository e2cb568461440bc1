"""What a model would have answered part-way through its own reasoning: read from ``probes.jsonl``.

A probe cuts a completion at a quantile q of its tokens (0, 0.1, … 1), forces the final answer, and says whether that
answer ``agrees`` with the completion's own. An answer known at q = 0 needed no reasoning, or was never revised by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from opsd_eval.metrics.base import Metric, mean_or_nan
from opsd_eval.records import Problem, Sample


def curves(problem: Problem, samples: Sequence[Sample]) -> list[list[Mapping[str, Any]]]:
    """The probe rows of each draw in ``samples``, by quantile; draws without probes are left out."""
    found: dict[int, list[Mapping[str, Any]]] = {sample.draw: [] for sample in samples}
    for row in problem.metadata.get("probes", ()):
        if row["draw"] in found:
            found[row["draw"]].append(row)
    return [sorted(rows, key=lambda row: row["quantile"]) for rows in found.values() if rows]


def _mean(values: Iterable[float | None]) -> float:
    return mean_or_nan(value for value in values if value is not None)


def early_answer_at_0(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws whose final answer is already given when no token of the reasoning has been written.

    Equation: mean over draws of agrees(q = 0). In [0, 1]. Draws without an answer of their own are left out; NaN
    without probes. Neither direction is better: a rise means that the reasoning no longer makes the answer (rote or
    shortcut), or that the problem is easy. Failure modes: an answer that is easily guessed agrees by chance; the model
    may reason inside the 32 tokens it is given.
    Source: arXiv 2307.13702, section 2.3 ("early answering"). Differs: cut by tokens, not sentences; open answers.
    """
    return _mean(
        float(rows[0]["agrees"])
        for rows in curves(problem, samples)
        if rows[0]["quantile"] == 0 and rows[0]["agrees"] is not None
    )


def early_answer_area(problem: Problem, samples: Sequence[Sample]) -> float:
    """Area over the curve of agreement against the share of reasoning seen: how late the answer is settled.

    Equation: mean over draws of 1 − ∫ agrees(q) dq, trapezoids over the probed quantiles. In [0, 1]: 0 when the answer
    stands from the start, near 1 when it appears with the last tokens. NaN without probes or an own answer.
    Neither direction is better. Failure modes: eleven cuts see no change between them; long preambles move the settling
    point to the back.
    Source: arXiv 2307.13702, section 2.3 (area over the curve). Differs: a mean of draws, not of a pooled curve.
    """
    return _mean(_area_over(rows) for rows in curves(problem, samples))


def _area_over(rows: Sequence[Mapping[str, Any]]) -> float | None:
    known = [(row["quantile"], float(row["agrees"])) for row in rows if row["agrees"] is not None]
    if len(known) < 2:
        return None
    area = sum((right[0] - left[0]) * (right[1] + left[1]) / 2 for left, right in pairwise(known))
    return 1 - area / (known[-1][0] - known[0][0])


def early_answer_flips(problem: Problem, samples: Sequence[Sample]) -> float:
    """How often the forced answer changes from one quantile to the next.

    Equation: mean over draws of the number of i with agrees(q_i) ≠ agrees(q_{i+1}). A change between two answers that
    both differ from the final one is not counted. NaN without probes or an own answer. Neither direction is better: one
    flip is a decision, many are wavering. Failure modes: as for early_answer_area.
    Source: own definition, on the curve of arXiv 2307.13702.
    """
    return _mean(_flips(rows) for rows in curves(problem, samples))


def _flips(rows: Sequence[Mapping[str, Any]]) -> float | None:
    known = [row["agrees"] for row in rows if row["agrees"] is not None]
    return float(sum(a != b for a, b in pairwise(known))) if len(known) > 1 else None


def _probed(compute: Callable[[Problem, Sequence[Sample]], float]) -> Metric:
    return Metric(compute.__name__, compute, "neither", needs=("probes",))


METRICS = tuple(map(_probed, (early_answer_at_0, early_answer_area, early_answer_flips)))
