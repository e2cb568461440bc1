"""Accuracy from counts: n graded draws of a problem, c of them right. Ungraded draws are left out, not wrong.

Every value here depends only on the counts of answers, so each count pattern is computed once and remembered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from opsd_eval.answers import canonical_answer
from opsd_eval.metrics.base import NAN, Metric, MetricFamily
from opsd_eval.records import MOST, Problem, Sample

G_PASS_THRESHOLD = 0.5


def graded_counts(samples: Sequence[Sample]) -> tuple[int, int]:
    """(n, c): graded draws and how many of them are right."""
    n = c = 0
    for sample in samples:
        if sample.correct is not None:
            n += 1
            c += sample.correct
    return n, c


def _chance(problem: Problem) -> float | None:
    """Probability that a guess is right, ``None`` where unknown.

    From ``metadata["answer_space"]``, a number of equally likely answers, or from the testbed's answers.
    """
    size = problem.metadata.get("answer_space")
    if isinstance(size, int | float) and 1 <= size <= MOST:
        return 1.0 / size
    if problem.benchmark.startswith("testbed.") and str(problem.answer).isdecimal():
        from opsd_eval.testbed import WORLDS
        from opsd_eval.testbed.chance import answer_chance

        return answer_chance(problem) if problem.benchmark.split(".")[1] in WORLDS else None
    return None


def avg(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws that are right.

    Equation: c / n over all graded draws. NaN when none is graded. Higher is better. Failure modes: none of its own;
    it is not the accuracy of the first draw. Source: arXiv 2107.03374 (pass@1). Differs: no.
    """
    n, c = graded_counts(samples)
    return c / n if n else NAN


def avg_relaxed(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws that are right when an unboxed or cut-off answer is accepted too.

    Equation: mean of ``correct_relaxed``. Higher is better. Failure modes: the last number of a text is often not its
    answer, so this is an upper bound on formatting losses, not an accuracy. Source: own definition.
    """
    known = [sample.correct_relaxed for sample in samples if sample.correct_relaxed is not None]
    return sum(known) / len(known) if known else NAN


def extraction_disagreement(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws on which strict and relaxed grading disagree.

    Equation: mean of ``correct != correct_relaxed``. Lower is better: what it counts is format, not reasoning.
    Failure modes: as for :func:`avg_relaxed`. Source: own definition.
    """
    pairs = [(s.correct, s.correct_relaxed) for s in samples if s.correct is not None and s.correct_relaxed is not None]
    return sum(a != b for a, b in pairs) / len(pairs) if pairs else NAN


@lru_cache(maxsize=65536)
def pass_at_k_value(n: int, c: int, k: int) -> float:
    """``1 − C(n−c, k) / C(n, k)``, exactly; NaN for n < k."""
    if not 1 <= k <= n:
        return NAN
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


@lru_cache(maxsize=65536)
def pass_hat_k_value(n: int, c: int, k: int) -> float:
    """``C(c, k) / C(n, k)``; NaN for n < k."""
    return math.comb(c, k) / math.comb(n, k) if 1 <= k <= n else NAN


@lru_cache(maxsize=65536)
def g_pass_at_k_value(n: int, c: int, k: int, threshold: float) -> float:
    """``Σ_{j ≥ max(1, ⌈τk⌉)} C(c, j) C(n−c, k−j) / C(n, k)``; NaN for n < k."""
    if not 1 <= k <= n:
        return NAN
    least = max(1, math.ceil(threshold * k - 1e-9))
    hits = sum(math.comb(c, j) * math.comb(n - c, k - j) for j in range(least, min(c, k) + 1))
    return hits / math.comb(n, k)


def pass_at(k: int) -> Metric:
    """pass@k: the probability that k draws without replacement contain a right one.

    Equation: 1 − C(n−c, k) / C(n, k); NaN for n < k. Higher is better. Chance: 1 − (1 − p)^k where the problem
    declares its answer space. Failure modes: at k = n it has no slack and its interval covers less than it says
    (draw n ≥ 2k); small answer spaces inflate large k by guessing.
    Source: arXiv 2107.03374, equation 1. Differs: no.
    """
    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        return pass_at_k_value(*graded_counts(samples), k)

    def chance(problem: Problem, n: int) -> float:
        p = _chance(problem)
        return NAN if p is None else 1.0 - (1.0 - p) ** k

    return Metric(f"pass@{k}", compute, "higher", chance=chance)


def pass_gap(n: int) -> Metric:
    """pass@n − pass@1: how much more the model can solve with n tries than with one.

    Equation: pass@n − c/N over N graded draws, which is 1[c ≥ 1] − c/n for N = n; NaN for N < n. Neither direction is
    better by itself: sharpening shrinks it from below, collapse from above; read it beside pass@1 and pass@n. Failure
    modes: those of pass@n.
    Source: arXiv 2504.13837 (coverage beyond the first draw). Differs: a difference, not a curve.
    """
    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        count, c = graded_counts(samples)
        return pass_at_k_value(count, c, n) - pass_at_k_value(count, c, 1)

    def chance(problem: Problem, draws: int) -> float:
        p = _chance(problem)
        return NAN if p is None else 1.0 - (1.0 - p) ** n - p

    return Metric(f"pass_gap@{n}", compute, "neither", chance=chance)


def pass_hat(k: int) -> Metric:
    """pass^k: the probability that k draws without replacement are all right (reliability).

    Equation: C(c, k) / C(n, k); NaN for n < k. Higher is better. Chance: p^k. Failure modes: sinks to 0 on hard
    problems and then says nothing. Source: arXiv 2406.12045. Differs: no.
    """
    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        return pass_hat_k_value(*graded_counts(samples), k)

    def chance(problem: Problem, n: int) -> float:
        p = _chance(problem)
        return NAN if p is None else p**k

    return Metric(f"pass^{k}", compute, "higher", chance=chance)


def g_pass(k: int, threshold: float = G_PASS_THRESHOLD) -> Metric:
    """G-Pass@k at τ = 0.5: the probability that at least half of k draws without replacement are right.

    Equation: Σ_{j=⌈τk⌉}^{c} C(c, j) C(n−c, k−j) / C(n, k); NaN for n < k. ``g-pass@8_0.75`` is that at τ = 0.75, and
    τ = 1 is pass^k. Higher is better. Failure modes: steps in k, because ⌈τk⌉ does.
    Source: arXiv 2412.13147, equation 3. Differs: no.
    """
    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        return g_pass_at_k_value(*graded_counts(samples), k, threshold)

    def chance(problem: Problem, n: int) -> float:
        p = _chance(problem)
        if p is None:
            return NAN
        least = max(1, math.ceil(threshold * k - 1e-9))
        return math.fsum(math.comb(k, j) * p**j * (1 - p) ** (k - j) for j in range(least, k + 1))

    return Metric(f"g-pass@{k}_{threshold:g}", compute, "higher", chance=chance)


def mg_pass(k: int) -> Metric:
    """mG-Pass@k: G-Pass@k averaged over the thresholds from a half to 1 (potential and stability in one number).

    Equation: (2/k) Σ_{i=⌈k/2⌉+1}^{k} G-Pass@k at τ = i/k; NaN for n < k and for k = 1. Higher is better. Failure modes:
    those of G-Pass@k; for an odd k its largest value is 1 − 1/k. Source: arXiv 2412.13147, equation 5. Differs: no.
    """
    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        n, c = graded_counts(samples)
        thresholds = [i / k for i in range(math.ceil(k / 2) + 1, k + 1)]
        return 2 / k * math.fsum(g_pass_at_k_value(n, c, k, t) for t in thresholds) if thresholds else NAN

    return Metric(f"mg-pass@{k}", compute, "higher")


# --- votes ------------------------------------------------------------------------------------------------


def vote_counts(samples: Sequence[Sample]) -> tuple[int, tuple[int, ...], int]:
    """(votes for the right answer, votes of each wrong answer in descending order, draws without an answer).

    Right draws are one class whatever they look like; wrong answers are classed by canonical form.
    """
    right = none = 0
    wrong: Counter[str] = Counter()
    for sample in samples:
        if sample.correct:
            right += 1
        elif sample.correct is not None:
            if sample.answer_strict is None:
                none += 1
            else:
                wrong[canonical_answer(sample.answer_strict)] += 1
    return right, tuple(sorted(wrong.values(), reverse=True)), none


@lru_cache(maxsize=65536)
def majority_curve(right: int, wrong: tuple[int, ...], none: int) -> tuple[float, ...]:
    """Expected majority vote at k = 1 … n over k-subsets without replacement; ties shared, no answer does not vote.

    Exact: subsets in which the right answer has m votes, t − 1 wrong answers tie with it and no answer has more are
    counted with a generating polynomial in the subset size, for every m and t, and weighted with 1/t. A subset in
    which nobody votes scores 0. Integers up to 64 draws (and above 1,000, where floats overflow), floats between.
    """
    n = right + sum(wrong) + none
    kind = float if 64 < n <= 1000 else object
    choose = [np.array([math.comb(size, j) for j in range(size + 1)], dtype=kind) for size in range(n + 1)]
    shares = math.lcm(*range(1, len(wrong) + 2)) if kind is object else 1  # keeps 1/t an integer
    totals = np.zeros(n + 1, dtype=kind)
    for m in range(1, right + 1):
        small = none + sum(count for count in wrong if count < m)
        # ways[t] = number of ways by size, t answers tied at m votes (the right one included)
        ways = {1: _shift(choose[small], m, choose[right][m], n)}
        for count in (count for count in wrong if count >= m):
            following: dict[int, np.ndarray] = {}
            for tied, sizes in ways.items():
                below = _pad(np.convolve(sizes, choose[count][:m]), n)
                following[tied] = following[tied] + below if tied in following else below
                following[tied + 1] = _shift(sizes, m, choose[count][m], n)
            ways = following
        for tied, sizes in ways.items():
            totals = totals + sizes * (shares // tied if kind is object else 1 / tied)
    return tuple(min(1.0, float(totals[k] / (shares * math.comb(n, k)))) for k in range(1, n + 1))


EXACT_VOTES = 512  # draws; the exact count takes their cube
SUBSETS, _CELLS = 4000, 1 << 21


@lru_cache(maxsize=65536)
def sampled_majority(right: int, wrong: tuple[int, ...], none: int, k: int) -> float:
    """The same as ``majority_curve(...)[k − 1]`` over 4,000 k-subsets that depend on the counts alone."""
    counts = [right, *wrong, none]
    if k == 1:
        return right / sum(counts)
    rng = np.random.default_rng([*counts, k])
    at_once = max(1, _CELLS // len(counts))
    total = 0.0
    for start in range(0, SUBSETS, at_once):
        size = min(at_once, SUBSETS - start)
        votes = rng.multivariate_hypergeometric(counts, k, size=size, method="marginals")[:, :-1]
        most = votes.max(axis=1)
        won = (votes[:, 0] == most) & (most > 0)
        total += float((won / (votes == most[:, None]).sum(axis=1)).sum())
    return total / SUBSETS


def _shift(sizes: np.ndarray, by: int, factor: Any, n: int) -> np.ndarray:
    """The polynomial times ``factor`` · x^``by``, up to degree n."""
    return _pad(np.concatenate([np.zeros(by, dtype=sizes.dtype), sizes * factor]), n)


def _pad(sizes: np.ndarray, n: int) -> np.ndarray:
    if len(sizes) > n:
        return sizes[: n + 1]
    return np.concatenate([sizes, np.zeros(n + 1 - len(sizes), dtype=sizes.dtype)])


def maj(k: int) -> Metric:
    """maj@k: the expected accuracy of a majority vote over k draws without replacement.

    Equation: E over k-subsets of 1[the right answer has most votes] / number of answers tied for most; draws without
    an answer do not vote; a subset without votes scores 0; NaN for n < k. Exact up to 512 draws; beyond, where that
    takes minutes, the mean over 4,000 fixed random subsets (standard error at most .008). Higher is better.
    Failure modes: votes for one value in two algebraic forms are split among wrong answers (never among right ones).
    Source: arXiv 2203.11171. Differs: expectation over subsets instead of the first k draws; ties are shared.
    """
    def compute(problem: Problem, samples: Sequence[Sample]) -> float:
        right, wrong, none = vote_counts(samples)
        n = right + sum(wrong) + none
        if k > n:
            return NAN
        if n > EXACT_VOTES:
            return sampled_majority(right, wrong, none, k)
        return majority_curve(right, wrong, none)[k - 1]

    def chance(problem: Problem, n: int) -> float:
        uniform = "answer_space" in problem.metadata  # then a vote of guesses is a guess, by symmetry
        return (_chance(problem) or NAN) if uniform else NAN

    return Metric(f"maj@{k}", compute, "higher", chance=chance)


def self_consistency(problem: Problem, samples: Sequence[Sample]) -> float:
    """Share of draws that give the most frequent answer.

    Equation: max_a n_a / n over graded draws; a draw without an answer counts in n and in no n_a. Neither direction
    is better: it does not know what is right, and it rises when a model collapses onto one answer.
    Failure modes: as for maj@k. Source: arXiv 2203.11171. Differs: no.
    """
    right, wrong, none = vote_counts(samples)
    n = right + sum(wrong) + none
    return max(right, *wrong, 0) / n if n else NAN


# --- registration -----------------------------------------------------------------------------------------


def _guess(problem: Problem, n: int) -> float:
    p = _chance(problem)
    return NAN if p is None else p


def _named(name: str, compute: Callable[[Problem, Sequence[Sample]], float]) -> Callable[[int], Metric]:
    return lambda k: Metric(f"{name}@{k}", compute, "higher", chance=_guess)


def powers(n: int) -> list[int]:
    """1, 2, 4, … up to n, and n itself."""
    ks = [1 << i for i in range(max(n, 0).bit_length()) if 1 << i <= n]
    return ks if not ks or ks[-1] == n else [*ks, n]


def only_n(n: int) -> list[int]:
    """The one size n (no size at all for n = 0)."""
    return [n] if n > 0 else []


FAMILIES = (
    MetricFamily("avg@k", _named("avg", avg), only_n),
    MetricFamily("avg_relaxed@k", _named("avg_relaxed", avg_relaxed), only_n),
    MetricFamily("pass@k", pass_at, powers),
    MetricFamily("pass_gap@n", pass_gap, only_n),
    MetricFamily("pass^k", pass_hat, powers),
    MetricFamily("maj@k", maj, powers),
    MetricFamily("g-pass@k_0.5", g_pass, powers),
    MetricFamily("mg-pass@k", mg_pass, lambda n: powers(n)[1:], default=False),
)
METRICS = (
    Metric("self_consistency", self_consistency, "neither"),
    Metric("extraction_disagreement", extraction_disagreement, "lower"),
)
