"""From a difference to a word: sign-flip test, corrections for many tests, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from opsd_eval.stats_estimates import Difference

BETTER = ("higher", "lower", "neither")
EXACT_LIMIT = 20
NORMAL_LIMIT = 20_000


def sign_flip_p(differences: Sequence[float] | np.ndarray, *, seed: int = 0, n: int = 10_000) -> float:
    """Two-sided sign-flip p-value of paired differences: how often random signs give so large a sum.

    ``p = share of sign vectors s with |Σ s_i d_i| >= |Σ d_i|``. NaN is dropped, zeros cannot matter. Exact over all
    2^m sign vectors for m <= 20 nonzero differences, else ``(1 + hits) / (1 + n)`` over ``n`` random vectors, and
    above 20,000 nonzero differences the normal limit ``Σd / sqrt(Σd²)``. With clusters above the problem pass one
    sum per cluster. Null: the differences are symmetric about 0. Empty input is NaN; all zero is 1.

    Source: Fisher 1935 (randomisation test); Phipson & Smyth 2010 for the +1. Differs: no.
    """
    values = np.asarray(differences, dtype=float)
    values = values[~np.isnan(values)]
    if values.size == 0:
        return math.nan
    values = values[values != 0]
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if values.size == 0 or observed <= 0:
        return 1.0
    if values.size <= EXACT_LIMIT:
        sums = np.array([values[0]])  # one sign may be fixed: every vector has a mirror image
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= observed))
    if values.size > NORMAL_LIMIT:
        from scipy.special import ndtr

        return float(2 * ndtr(-abs(values.sum()) / math.sqrt((values**2).sum())))
    return (1 + _random_hits(values, observed, seed=seed, n=n)) / (1 + n)


def _random_hits(values: np.ndarray, observed: float, *, seed: int, n: int) -> int:
    rng = np.random.default_rng(seed)
    hits, done, total = 0, 0, values.sum()
    width = -(-values.size // 8)
    while done < n:
        rows = min(n - done, max(1, 2_000_000 // values.size))
        bits = np.frombuffer(rng.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
        signs = np.unpackbits(bits, axis=1, count=values.size)
        hits += int(np.count_nonzero(np.abs(2.0 * (signs @ values) - total) >= observed))
        done += rows
    return hits


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values: reject where ``adjusted <= α`` and the chance of any false rejection is ≤ α.

    ``adjusted_(i) = max_{j<=i} min(1, (m − j + 1) p_(j))`` over the m p-values that are not NaN; NaN stays NaN.
    Source: Holm 1979. Differs: no.
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * values[order])) if len(order) else []
    return adjusted


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Benjamini–Hochberg adjusted p-values: the expected share of false ones among those called is ≤ α.

    ``adjusted_(i) = min_{j>=i} min(1, m p_(j) / j)``; for exploration, not for the primary metrics. NaN stays NaN.
    Source: Benjamini & Hochberg 1995. Differs: no.
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    if len(order):
        scaled = values[order] * len(order) / np.arange(1, len(order) + 1)
        adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def verdict(
    difference: Difference, *, better: str, margin: float | None, p_adjusted: float | None = None, alpha: float = 0.05
) -> str:
    """``preserved``, ``improved``, ``degraded`` or ``undecided``.

    ``preserved`` when the interval lies inside ±margin (equivalence; wins over the others), ``improved`` or
    ``degraded`` when it excludes 0 in that direction, else ``undecided``: print ``difference.mde`` beside it. A
    metric whose ``better`` is ``neither`` is never improved or degraded. With ``p_adjusted`` (Holm) given, improved
    and degraded also need ``p_adjusted <= alpha``. A missing margin, or one of 0, never gives ``preserved``; NaN
    bounds are ``undecided``. An interval of width 0 (every problem gave the same difference) says nothing about the
    problems not seen: it counts as ± (1 − α^(1/n)), the largest share of differing problems that n equal ones leave
    open (the "rule of three", about 3/n), times 1, the most a share can differ. Ours, and for shares only.
    """
    if better not in BETTER:
        raise ValueError(f"better={better!r}: allowed are {', '.join(BETTER)}")
    if margin is not None and (not math.isfinite(margin) or margin < 0):
        raise ValueError(f"margin={margin!r}: give a finite number >= 0 in the metric's own units, or None")
    low, high = difference.low, difference.high
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    unseen = 1.0 - alpha ** (1.0 / difference.n_problems) if low == high else 0.0
    if margin and -margin <= low - unseen and high + unseen <= margin:
        return "preserved"
    significant = p_adjusted is None or p_adjusted <= alpha
    if better != "neither" and significant and (low > 0 or high < 0):
        return "improved" if (low > 0) == (better == "higher") else "degraded"
    return "undecided"
