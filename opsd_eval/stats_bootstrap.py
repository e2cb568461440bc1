"""Bootstrap intervals over problems (never over samples within a problem).

Resampling samples inside a problem with replacement biases pass@k downwards (its interval covered .19 in
simulation), so nothing here can do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from opsd_eval.stats_estimates import Estimate, check_level, cluster_codes

Statistic = Callable[[Any], float]
_BLOCK = 2_000_000  # weights held at once


def bootstrap_means(
    columns: np.ndarray,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """Bootstrap distribution (n_resamples, M) of the column means of a (P, M) table; rows are drawn together.

    Row i of the table is problem i under every metric (or model), so a resample takes the same problems for all
    columns and differences of columns stay paired. NaN entries are left out of their column's mean; a resample
    without any gives NaN. Deterministic for a seed.
    """
    table = np.asarray(columns, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    known = ~np.isnan(table)
    codes = np.arange(len(table)) if clusters is None else cluster_codes(clusters)
    units = int(codes.max()) + 1 if len(codes) else 0
    if units == 0:
        return np.full((n_resamples, table.shape[1]), np.nan)
    sums, counts = np.zeros((units, table.shape[1])), np.zeros((units, table.shape[1]))
    np.add.at(sums, codes, np.where(known, table, 0.0))
    np.add.at(counts, codes, known)
    plain = bool(known.all()) and clusters is None
    rng = np.random.default_rng(seed)
    found = np.empty((n_resamples, table.shape[1]))
    for start, weights in _weight_blocks(rng, units, n_resamples):
        below = float(units) if plain else weights @ counts
        with np.errstate(invalid="ignore"):
            found[start : start + len(weights)] = (weights @ sums) / below
    return found


def _weight_blocks(rng: np.random.Generator, units: int, n_resamples: int):
    """Yield (first row, how often each unit was drawn): (rows, units) blocks of bounded size."""
    step = max(1, _BLOCK // units)
    for start in range(0, n_resamples, step):
        rows = min(step, n_resamples - start)
        drawn = rng.integers(0, units, size=(rows, units), dtype=np.int32)
        drawn += np.arange(rows, dtype=np.int32)[:, None] * np.int32(units)
        yield start, np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(float)


def bootstrap_estimate(
    rows: Sequence[Any] | np.ndarray,
    *,
    statistic: Statistic | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Percentile interval of a statistic over resampled problems (or clusters of problems); default: the mean.

    ``rows`` holds one entry a problem: numbers, or anything that ``statistic`` takes a list (array) of. The
    percentiles are expanded for small N, ``α' = Φ(−t_{α/2, N−1} · sqrt(N/(N−1)))``, without which the interval is
    narrow by a factor sqrt((N−1)/N) · z/t. NaN numbers are dropped under the default statistic. Coverage at
    N = 30 and 500: avg@16 .953 and .947, pass@8 of 16 .952 and .945.
    Source: Efron & Tibshirani 1993 ch. 13; expansion: Hesterberg, arXiv 1411.5279. Differs: no.
    """
    prepared = _Prepared.of(rows, statistic, clusters, level)
    draws = prepared.distribution(n_resamples, seed)
    low, high = _expanded_tails(prepared.units, level)
    return prepared.estimate(draws, (low, high), "percentile bootstrap over problems, expanded")


def bca_estimate(
    rows: Sequence[Any] | np.ndarray,
    *,
    statistic: Statistic | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Bias-corrected and accelerated interval over resampled problems; for skewed statistics.

    ``α₁ = Φ(z₀ + (z₀ + z_α)/(1 − a(z₀ + z_α)))`` with z₀ from the share of resamples below the estimate and the
    acceleration a from the jackknife; z_α expanded for small N as in :func:`bootstrap_estimate`. Where the
    jackknife or z₀ is not finite the plain percentiles are used, and ``method`` says so. Coverage at
    N = 30 and 500: avg@16 .961 and .948, pass@8 of 16 .969 and .946; for skewed scores (lognormal with σ = 1) it
    misses .93 at N = 30 by .025, half as much as the t interval. Source: Efron 1987. Differs: the expansion.
    """
    prepared = _Prepared.of(rows, statistic, clusters, level)
    draws = prepared.distribution(n_resamples, seed)
    tails = _expanded_tails(prepared.units, level)
    shifted = _bca_tails(draws, prepared.value, prepared.jackknife(), tails)
    if shifted is None:
        return prepared.estimate(draws, tails, "percentile bootstrap over problems, expanded (BCa undefined)")
    return prepared.estimate(draws, shifted, "BCa bootstrap over problems, expanded")


def _expanded_tails(units: int, level: float) -> tuple[float, float]:
    if units < 2:
        return math.nan, math.nan
    tail = float(ndtr(stdtrit(units - 1, (1 - level) / 2) * math.sqrt(units / (units - 1))))
    return tail, 1 - tail


def _bca_tails(
    draws: np.ndarray, value: float, jackknife: np.ndarray, tails: tuple[float, float]
) -> tuple[float, float] | None:
    known = draws[~np.isnan(draws)]
    spread = jackknife.mean() - jackknife if len(jackknife) else jackknife
    scale = float((spread**2).sum()) ** 1.5
    if len(known) == 0 or not scale > 0:
        return None
    share = float(np.mean(known < value) + 0.5 * np.mean(known == value))
    if not 0 < share < 1:
        return None
    bias, acceleration = float(ndtri(share)), float((spread**3).sum()) / (6 * scale)
    moved = []
    for tail in tails:
        z = bias + float(ndtri(tail))
        moved.append(float(ndtr(bias + z / (1 - acceleration * z))))
    return (moved[0], moved[1]) if all(map(math.isfinite, moved)) else None


class _Prepared:
    """Rows, their resampling units and the statistic, in the two forms (weighted mean, any function)."""

    def __init__(self, rows: Any, statistic: Statistic | None, codes: np.ndarray, level: float, dropped: int):
        self.rows, self.statistic, self.codes, self.level, self.dropped = rows, statistic, codes, level, dropped
        self.units = int(codes.max()) + 1 if len(codes) else 0
        if self.units == 0:
            self.value = math.nan
        else:
            self.value = float(rows.mean()) if statistic is None else float(statistic(rows))

    @classmethod
    def of(cls, rows: Any, statistic: Statistic | None, clusters: Any, level: float) -> _Prepared:
        check_level(level)
        if clusters is not None and len(clusters) != len(rows):
            raise ValueError(f"{len(rows)} rows but {len(clusters)} clusters: give one cluster label a row")
        labels = [None] * len(rows) if clusters is None else list(clusters)
        if statistic is not None:
            return cls(rows, statistic, cluster_codes(labels), level, 0)
        array = np.asarray(rows, dtype=float)
        keep = ~np.isnan(array)
        codes = cluster_codes([c for c, used in zip(labels, keep, strict=True) if used])
        return cls(array[keep], None, codes, level, int((~keep).sum()))

    def distribution(self, n_resamples: int, seed: int) -> np.ndarray:
        if self.units == 0:
            return np.full(n_resamples, np.nan)
        if self.statistic is None:
            found = bootstrap_means(self.rows, n_resamples=n_resamples, seed=seed, clusters=self.codes.tolist())
            return found[:, 0]
        rng = np.random.default_rng(seed)
        members = [np.flatnonzero(self.codes == unit) for unit in range(self.units)]
        drawn = (np.concatenate([members[u] for u in rng.integers(0, self.units, self.units)])
                 for _ in range(n_resamples))
        return np.array([float(self.statistic(self._take(indices))) for indices in drawn])

    def jackknife(self) -> np.ndarray:
        if self.units < 2:
            return np.array([])
        if self.statistic is None:
            sums = np.bincount(self.codes, weights=self.rows)
            counts = np.bincount(self.codes)
            return (sums.sum() - sums) / (counts.sum() - counts)
        keep = (np.flatnonzero(self.codes != unit) for unit in range(self.units))
        return np.array([float(self.statistic(self._take(indices))) for indices in keep])

    def _take(self, indices: np.ndarray) -> Any:
        return self.rows[indices] if isinstance(self.rows, np.ndarray) else [self.rows[i] for i in indices]

    def estimate(self, draws: np.ndarray, tails: tuple[float, float], method: str) -> Estimate:
        known = draws[~np.isnan(draws)]
        if len(known) < len(draws):
            method += f"; {len(draws) - len(known)} of {len(draws)} resamples undefined"
        low, high = (np.quantile(known, tails) if len(known) and self.units > 1 else (math.nan, math.nan))
        return Estimate(self.value, float(low), float(high), len(self.rows), self.dropped, method)
