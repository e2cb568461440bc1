"""Two models on the same problems: what one can do and the other cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from opsd_eval.metrics.accuracy import graded_counts, pass_at_k_value
from opsd_eval.metrics.base import NAN, PairMetric, SetPairMetric
from opsd_eval.records import Problem, Sample

HARD = 0.25


def support_loss(problem: Problem, base: Sequence[Sample], other: Sequence[Sample]) -> float:
    """Whether base solves the problem at least once and the other model never does.

    Equation: 1[c_base ≥ 1] · 1[c_other = 0] at equal n; with unequal n the same for random subsets of the smaller
    size m: pass@m(base) · (1 − pass@m(other)). Lower is better. Two equal models have, given c right draws among
    all, C(n, c) / C(2n, c), the probability that all fall on base's side. Failure modes: says nothing about gains;
    read it with ``crossover_k`` and against the level of two equal models, which is far from 0 for hard problems. Its t
    interval covers .870 at N = 30 and .945 at N = 500 where a tenth of the problems is lost.
    Source: arXiv 2504.13837 (coverage sets). Differs: own estimator and level of equal models.
    """
    (n, c), (m, d) = graded_counts(base), graded_counts(other)
    size = min(n, m)
    return pass_at_k_value(n, c, size) * (1.0 - pass_at_k_value(m, d, size)) if size else NAN


def support_loss_null(problem: Problem, base: Sequence[Sample], other: Sequence[Sample]) -> float:
    """Expected :func:`support_loss` of two models with equal rates, given the right draws of both together."""
    (n, c), (m, d) = graded_counts(base), graded_counts(other)
    if not n or not m:
        return NAN
    right = c + d
    return math.comb(n, right) / math.comb(n + m, right) if right else 0.0


def hard_tail_retention(problem: Problem, base: Sequence[Sample], other: Sequence[Sample]) -> float:
    """Change of accuracy on problems that are hard for base: 0 is retained, negative is lost.

    Equation: base's draws are split in two halves; where the rate of one half is in (0, 0.25] the value is
    avg(other) − avg(other half of base), averaged over the two ways to use the halves; NaN where neither half says
    "hard", so always below 7 draws of base (4 must be in a half). Higher is better. Failure modes:
    with few draws the bin is noisy (which costs problems, not bias). Choosing the bin on the draws that are scored
    would show a loss where there is none. Its t interval covers .933 at N = 30 and .944 at N = 500.
    Source: own definition (cross-fitting, arXiv 1608.00060).
    """
    graded = [s.correct for s in sorted(base, key=lambda s: s.draw) if s.correct is not None]
    halves = graded[::2], graded[1::2]
    n, c = graded_counts(other)
    if not n or not halves[1]:
        return NAN
    rates = [sum(half) / len(half) for half in halves]
    found = [c / n - held_out for chosen, held_out in (rates, rates[::-1]) if 0 < chosen <= HARD]
    return sum(found) / len(found) if found else NAN


def crossover_k(counts: np.ndarray) -> float:
    """Smallest k from which base's pass@k is above the other model's for every larger k.

    ``counts``: one row (n_base, c_base, n_other, c_other) a problem. Equation: min{k : pass@j(base) > pass@j(other)
    for all k ≤ j ≤ n}, n the smallest number of draws on either side; infinite when base is not above at n, so that
    an interval [16, ∞] reads "at 16 or never seen". Higher is better (1: base is better throughout). Failure modes:
    differences near 0 flip it; look at the curves. Source: arXiv 2504.13837. Differs: interval by bootstrap (coverage
    .947 at N = 30; 1.0 at N = 500, where it is wide because k is a whole number).
    """
    counts = np.asarray(counts, dtype=int)
    counts = counts[(counts[:, 0] > 0) & (counts[:, 2] > 0)] if len(counts) else counts
    if not len(counts):
        return NAN
    n = int(min(counts[:, 0].min(), counts[:, 2].min()))
    ahead = _pass_curve(counts[:, :2], n) > _pass_curve(counts[:, 2:], n)
    behind = np.flatnonzero(~ahead)
    first = int(behind[-1]) + 2 if behind.size else 1
    return float(first) if first <= n else math.inf


def _pass_curve(counts: np.ndarray, largest: int) -> np.ndarray:
    """Mean pass@k over problems for k = 1 … ``largest``; ``counts``: one row (n, c) a problem."""
    width = int(counts[:, 0].max()) + 1
    kinds, times = np.unique(counts[:, 0] * width + counts[:, 1], return_counts=True)
    curves = np.stack([_pass_values(int(kind) // width, int(kind) % width, largest) for kind in kinds])
    return np.einsum("i,ik->k", times, curves) / times.sum()


@lru_cache(maxsize=4096)
def _pass_values(n: int, c: int, largest: int) -> np.ndarray:
    return np.array([pass_at_k_value(n, c, k) for k in range(1, largest + 1)])


PAIR_METRICS = (
    PairMetric("support_loss", support_loss, "lower", null=support_loss_null),
    PairMetric("hard_tail_retention", hard_tail_retention, "higher", null=lambda *_: 0.0),
)
SET_PAIR_METRICS = (SetPairMetric("crossover_k", crossover_k, "higher"),)
