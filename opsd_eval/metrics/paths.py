"""Solution paths: which intermediate values a completion computes."""

from __future__ import annotations

from collections.abc import Sequence

from opsd_eval.arithmetic import check
from opsd_eval.metrics.base import Metric, per_text
from opsd_eval.metrics.diversity import both
from opsd_eval.metrics.subsets import class_counts, eligible, expected_classes, subset_size
from opsd_eval.records import Problem, Sample

report_of = per_text(check)


@per_text
def path_of(text: str) -> frozenset[str]:
    """The values a text computes: right sides of its readable equations that have an operation on the left."""
    return frozenset(
        str(link.right) for link in report_of(text).links if link.right is not None and link.operators
    )


def distinct_paths(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Expected number of distinct solution paths among m draws, m half of the draws.

    Equation: Σ_p 1 − C(n − n_p, m) / C(n, m) over paths p; a path is the set of values computed by the completion's
    equations, whatever their order or wording; completions without a readable equation, loops and off-language draws
    are left out; NaN when fewer than m remain. Neither direction is better over all draws (errors make paths);
    among right draws more paths means more ways to solve. Failure modes: an extra verification step with a new value
    is a new path; routes told in words are not seen. Source: idea after arXiv 2510.26122. Differs: exact classes.
    """
    paths = [path_of(sample.text or "") for sample in eligible(problem, samples, correct_only=correct_only)]
    return expected_classes(class_counts([path for path in paths if path]), subset_size(samples))


METRICS: tuple[Metric, ...] = both("distinct_paths", distinct_paths)
