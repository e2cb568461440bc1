"""Expectations over random subsets of fixed size: how diversity is compared at equal numbers of draws.

Rule one: more draws look more diverse, so every diversity metric is the expectation over subsets of m draws, m being
half of the problem's draws (at least 2). Rule two: loops and off-language draws are left out first. With fewer than m
draws left the value is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache

import numpy as np

from opsd_eval.metrics.base import NAN
from opsd_eval.metrics.language import is_off_language
from opsd_eval.metrics.loops import is_loop
from opsd_eval.records import Problem, Sample

MAX_SUBSETS = 70


def subset_size(samples: Sequence[Sample]) -> int:
    """Half of the problem's draws, at least 2."""
    return max(2, len(samples) // 2)


def eligible(problem: Problem, samples: Sequence[Sample], *, correct_only: bool) -> list[Sample]:
    """Draws that count for diversity, by draw: with text, no loop, in the question's language (and right)."""
    return [
        sample
        for sample in sorted(samples, key=lambda s: s.draw)
        if sample.text is not None
        and (sample.correct is True or not correct_only)
        and not is_loop(sample.text)
        and not is_off_language(problem.question, sample.text)
    ]


def class_counts(labels: Sequence[Hashable]) -> tuple[int, ...]:
    """Sizes of the classes, largest first."""
    counts: dict[Hashable, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return tuple(sorted(counts.values(), reverse=True))


@lru_cache(maxsize=65536)
def expected_classes(counts: tuple[int, ...], m: int) -> float:
    """Expected number of distinct classes among m of the draws: Σ_a 1 − C(n − n_a, m) / C(n, m). NaN for n < m."""
    n = sum(counts)
    if not 1 <= m <= n:
        return NAN
    return math.fsum(1.0 - math.comb(n - count, m) / math.comb(n, m) for count in counts)


@lru_cache(maxsize=65536)
def expected_entropy(counts: tuple[int, ...], m: int) -> float:
    """Expected entropy (nats) of the classes among m of the draws. NaN for n < m.

    Entropy is a sum over classes, so only the hypergeometric distribution of each class's count is needed:
    Σ_a Σ_j P(J_a = j) · (−(j/m) ln(j/m)).
    """
    n = sum(counts)
    if not 1 <= m <= n:
        return NAN
    total = math.comb(n, m)
    return abs(math.fsum(
        math.comb(count, j) * math.comb(n - count, m - j) / total * -(j / m) * math.log(j / m)
        for count in counts
        for j in range(1, min(count, m) + 1)
    ))  # fmt: skip


def mean_over_subsets(n: int, m: int, value: Callable[[np.ndarray], float]) -> float:
    """Mean of ``value(indices)`` over all m-subsets of n, or over 70 fixed random ones where there are more."""
    if not 1 <= m <= n:
        return NAN
    return float(np.mean([value(row) for row in _subsets(n, m)]))


@lru_cache(maxsize=256)
def _subsets(n: int, m: int) -> np.ndarray:
    if math.comb(n, m) <= MAX_SUBSETS:
        return np.array(list(itertools.combinations(range(n), m)))
    rng = np.random.default_rng([n, m])
    return np.array([np.sort(rng.permutation(n)[:m]) for _ in range(MAX_SUBSETS)])
