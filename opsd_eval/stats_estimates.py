"""Estimates and paired differences over problems, with t intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from opsd_eval.stats_verdicts import sign_flip_p

POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, the problems behind it, and how it was made; it prints itself.

    ``chance`` is what guessing would give, ``None`` where that is unknown. NaN value or bounds mean undefined.
    """

    value: float
    low: float
    high: float
    n_problems: int
    n_dropped: int
    method: str
    chance: float | None = None

    def __str__(self) -> str:
        return f"{_with_interval(self)} (n={self.n_problems}, dropped {self.n_dropped})"


@dataclass(frozen=True)
class Difference:
    """A difference with interval, p-value and the smallest effect this many problems (and seeds) could show.

    ``mde`` is the effect found with 80 % power at the interval's level. ``scope`` is ``checkpoints`` for a statement
    about the very checkpoints compared, ``method`` for one that crosses base seeds, training seeds and problems.
    ``seed_sd`` is the standard deviation of the base seeds' mean differences.
    """

    value: float
    low: float
    high: float
    p_value: float
    mde: float
    n_problems: int
    n_dropped: int
    method: str
    n_seeds: int = 1
    seed_sd: float = math.nan
    scope: str = "checkpoints"

    def __str__(self) -> str:
        tail = f"n={self.n_problems}, dropped {self.n_dropped}"
        if self.n_seeds > 1:
            tail += f", {self.n_seeds} base seeds"
        if not math.isnan(self.p_value):
            tail += f", p={self.p_value:.3g}"
        if not math.isnan(self.mde):
            tail += f", MDE {_number(self.mde, _decimals(self.mde, self.mde) + 1)}"
        return f"{_with_interval(self, sign='+')} ({tail})"


def _with_interval(shown: Estimate | Difference, sign: str = "") -> str:
    if math.isnan(shown.value):
        return "undefined"
    if math.isnan(shown.low) or math.isnan(shown.high):
        return f"{_number(shown.value, 3, sign)} [no interval]"
    places = _decimals(shown.value, (shown.high - shown.low) / 2)
    return f"{_number(shown.value, places + 1, sign)} [{_number(shown.low, places)}, {_number(shown.high, places)}]"


def _decimals(value: float, half_width: float) -> int:
    """Decimals for the bounds: enough to show the first digit of the half width, at least 2 below 10."""
    least = 2 if abs(value) < 10 else 0
    if not math.isfinite(half_width) or half_width <= 0:
        return max(least, 2)
    return min(6, max(least, -math.floor(math.log10(half_width))))


def _number(value: float, places: int, sign: str = "") -> str:
    return f"{value:{sign}.{places}f}"


# --- shared pieces ----------------------------------------------------------------------------------------


def check_level(level: float) -> None:
    """Refuse a confidence level outside (0, 1), such as 95 for 0.95."""
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: give a number between 0 and 1, such as 0.95")


def t_quantile(df: float, level: float) -> float:
    """Two-sided critical value of Student's t; NaN for df < 1."""
    return float(stdtrit(df, (1 + level) / 2)) if df >= 1 else math.nan


def t_p_value(statistic: float, df: float) -> float:
    """Two-sided p-value of a t statistic (0/0 is p = 1: nothing differs)."""
    if math.isnan(statistic) or df < 1:
        return math.nan
    return float(2 * stdtr(df, -abs(statistic)))


def mean_and_se(values: np.ndarray, clusters: Sequence[Hashable] | None = None) -> tuple[float, float, float]:
    """Mean, standard error and degrees of freedom of values without NaN; cluster-robust with ``clusters``.

    ``SE = sqrt(Σ_c (Σ_{i∈c} (s_i − s̄))² · C/(C−1)) / n`` with df = C − 1; without clusters every value is its own.
    A cluster of ``None`` is its own cluster. Fewer than two clusters: SE and df are NaN.
    Source: arXiv 2411.00640 eq. 4; C/(C−1) is the usual finite-cluster factor. Differs: that factor.
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    residuals = values - mean
    if clusters is not None:
        residuals = np.bincount(cluster_codes(clusters), weights=residuals)
    groups = len(residuals)
    if groups < 2:
        return mean, math.nan, math.nan
    se = math.sqrt(float((residuals**2).sum()) * groups / (groups - 1)) / n
    return mean, se, groups - 1.0


def cluster_codes(clusters: Sequence[Hashable]) -> np.ndarray:
    """Cluster labels as integers 0..C−1; ``None`` gives a cluster of its own."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault((i,) if c is None else ("", c), len(codes)) for i, c in enumerate(clusters)])


def effect_for(se: float, df: float, level: float = 0.95, power: float = POWER) -> float:
    """Minimum detectable effect ``(t_{1−α/2} + t_power) · SE``; NaN without degrees of freedom."""
    if math.isnan(se) or not df >= 1:
        return math.nan
    return float((stdtrit(df, (1 + level) / 2) + stdtrit(df, power)) * se)


def same_problems(names: Sequence[str], tables: Sequence[Mapping[str, float]]) -> list[str]:
    """The problem ids all tables share; tables over different problems raise, naming up to five ids of each side."""
    first = tables[0]
    for name, table in zip(names[1:], tables[1:], strict=True):
        if first.keys() != table.keys():
            only_first = sorted(first.keys() - table.keys())
            only_other = sorted(table.keys() - first.keys())
            raise ValueError(
                f"different problem sets: only in {names[0]}: {_some(only_first)}; only in {name}: "
                f"{_some(only_other)}. Compare runs on the same problems, or restrict both to the shared ids."
            )
    return list(first)


def _some(ids: Sequence[str]) -> str:
    return "none" if not ids else ", ".join(map(repr, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def pick_clusters(clusters: Mapping[str, str | None] | None, ids: Sequence[str]) -> list[str | None] | None:
    """The clusters of these ids in order, ``None`` if no clusters are given or each problem is its own."""
    if clusters is None:
        return None
    found = [clusters.get(i) for i in ids]
    return None if all(c is None for c in found) else found


# --- one model --------------------------------------------------------------------------------------------


def mean_estimate(
    values: Sequence[float] | np.ndarray, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """Mean of per-problem values with a t interval over problems, or over clusters of problems.

    ``s̄ ± t_{C−1} · SE`` (:func:`mean_and_se`). NaN values are dropped and counted. No value: NaN. One value or one
    cluster: the value without an interval. When all values are equal the interval has width 0, which says only that
    these problems did not differ. Coverage simulated at N = 30 and 500 (Beta(.35, .65) difficulties, 16 draws): avg@k
    .947 and .949, pass@8 .944 and .946, 30 and 500 equal clusters .947 and .951. It misses .93 at N = 30 for pass@k
    with k = n, which has no slack (.923; .950 at 500), for clusters of unequal (geometric) size (.924; .940 at 500),
    for skewed scores such as marker counts (lognormal with σ = 1: .880; .938 at 500) and most for shares near 0 or 1
    (a loop rate of .05: .860; .946 at 500): there 30 problems are too few for any symmetric interval.
    Source: arXiv 2411.00640. Differs: t instead of z, finite-cluster factor.
    """
    check_level(level)
    array = np.asarray(values, dtype=float)
    if clusters is not None and len(clusters) != len(array):
        raise ValueError(f"{len(array)} values but {len(clusters)} clusters: give one cluster label a value")
    keep = ~np.isnan(array)
    if clusters is not None:
        clusters = [c for c, used in zip(clusters, keep, strict=True) if used]
    mean, se, df = mean_and_se(array[keep], clusters)
    half = t_quantile(df, level) * se
    method = "t over problems" if clusters is None else f"t over {int(df) + 1 if df >= 1 else 1} clusters"
    return Estimate(mean, mean - half, mean + half, int(keep.sum()), int((~keep).sum()), method)


def redraw_estimate(draws: Mapping[str, Sequence[float]], *, level: float = 0.95) -> Estimate:
    """Mean over problems whose interval holds the problems fixed: how would the same problems come out, drawn again?

    ``SE² = Σ_i s_i² / n_i / N²`` with s_i² the variance among problem i's draws; Satterthwaite degrees of freedom.
    This is the question that "standard deviation over runs" answers; it says nothing about other problems (as an
    interval for those it covered .36 in simulation). Coverage of its own question: .951 at N = 30, .960 at N = 500.
    Problems without a draw are dropped; problems with one draw make the interval undefined.
    """
    check_level(level)
    arrays = [np.asarray(list(v), dtype=float) for v in draws.values()]
    arrays = [a[~np.isnan(a)] for a in arrays]
    used = [a for a in arrays if len(a)]
    dropped = len(arrays) - len(used)
    method = "t over draws, problems fixed"
    if not used:
        return Estimate(math.nan, math.nan, math.nan, 0, dropped, method)
    mean = float(np.mean([a.mean() for a in used]))
    if any(len(a) < 2 for a in used):
        return Estimate(mean, math.nan, math.nan, len(used), dropped, method)
    parts = np.array([a.var(ddof=1) / len(a) for a in used]) / len(used) ** 2
    freedom = np.array([len(a) - 1 for a in used])
    total = float(parts.sum())
    df = total**2 / float((parts**2 / freedom).sum()) if total > 0 else float(freedom.sum())
    half = t_quantile(df, level) * math.sqrt(total)
    return Estimate(mean, mean - half, mean + half, len(used), dropped, method)


# --- two models -------------------------------------------------------------------------------------------


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    clusters: Mapping[str, str | None] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Mean of a − b over problems: t interval over problems (or clusters), sign-flip p-value, MDE.

    A problem where either side is NaN is dropped and counted. Different problem sets raise. The statement is about
    these two checkpoints; for a method use :func:`across_seeds`. Coverage .944 at N = 30, .955 at N = 500; over
    30 and 500 clusters of five .942 and .936.
    Source: arXiv 2411.00640 section 4.2. Differs: t instead of z; the p-value is a sign-flip test.
    """
    check_level(level)
    ids = same_problems(("a", "b"), (a, b))
    gaps = np.array([a[i] - b[i] for i in ids], dtype=float)
    keep = ~np.isnan(gaps)
    labels = pick_clusters(clusters, [i for i, used in zip(ids, keep, strict=True) if used])
    value, se, df = mean_and_se(gaps[keep], labels)
    half = t_quantile(df, level) * se
    flipped = gaps[keep] if labels is None else np.bincount(cluster_codes(labels), weights=gaps[keep])
    over = "problems" if labels is None else f"{int(df) + 1 if df >= 1 else 1} clusters"
    return Difference(
        value, value - half, value + half, sign_flip_p(flipped, seed=seed), effect_for(se, df, level),
        int(keep.sum()), int((~keep).sum()), f"paired t over {over}; sign-flip p",
    )


def difference_in_differences(
    id_after: Mapping[str, float],
    id_before: Mapping[str, float],
    ood_after: Mapping[str, float],
    ood_before: Mapping[str, float],
    *,
    clusters: Mapping[str, str | None] | None = None,
    level: float = 0.95,
) -> Difference:
    """Generalization gap caused by training: (ID after − before) − (OOD after − before).

    Each bracket is paired by problem, the two problem sets are independent, so ``SE² = SE_id² + SE_ood²`` with
    Welch–Satterthwaite degrees of freedom. Where a cluster has problems on both sides they are not independent: then
    ``SE² = C/(C−1) · Σ_c (Σ_{id∩c} r/n_id − Σ_{ood∩c} r/n_ood)²``, r the residuals, df = C − 1 (coverage .957 and .955
    over 30 and 200 clusters). Positive: training helped more (or harmed less) in distribution. A raw ID − OOD
    difference of one model also holds the difference in difficulty; this one does not. ``n_problems`` adds both sets.
    Coverage .948 at N = 30 a side, .951 at N = 500; over 30 and 500 clusters of five a side .948 and .934.
    """
    check_level(level)
    sides = [
        paired_difference_parts(after, before, clusters)
        for after, before in ((id_after, id_before), (ood_after, ood_before))
    ]
    (v1, se1, df1, n1, out1), (v2, se2, df2, n2, out2) = sides
    se = math.hypot(se1, se2)
    df = welch_df((se1**2, se2**2), (df1, df2))
    value = v1 - v2
    method = "difference in differences, Welch t"
    if clusters and (shared := _shared_cluster_se((id_after, id_before), (ood_after, ood_before), clusters)):
        se, df = shared
        method = f"difference in differences, t over {int(df) + 1} clusters on both sides"
    half = t_quantile(df, level) * se
    p_value = t_p_value(value / se, df) if se > 0 else (math.nan if math.isnan(se) else float(value == 0))
    return Difference(
        value, value - half, value + half, p_value, effect_for(se, df, level), n1 + n2, out1 + out2,
        method,
    )


def _shared_cluster_se(
    inside: tuple[Mapping[str, float], Mapping[str, float]],
    outside: tuple[Mapping[str, float], Mapping[str, float]],
    clusters: Mapping[str, str | None],
) -> tuple[float, float] | None:
    """Standard error and df of a difference of means whose two problem sets share clusters; ``None`` if they do not."""
    parts: list[float] = []
    labels: list[Hashable] = []
    seen: list[set[str]] = []
    for sign, (after, before) in ((1.0, inside), (-1.0, outside)):
        gaps = {i: after[i] - before[i] for i in after if after[i] == after[i] and before[i] == before[i]}
        mean = sum(gaps.values()) / len(gaps) if gaps else math.nan
        parts += [sign * (gap - mean) / len(gaps) for gap in gaps.values()]
        named = [clusters.get(i) for i in gaps]
        seen.append({label for label in named if label is not None})
        labels += named
    if not seen[0] & seen[1]:
        return None
    sums = np.bincount(cluster_codes(labels), weights=parts)
    if len(sums) < 2:
        return math.nan, math.nan
    return math.sqrt(float((sums**2).sum()) * len(sums) / (len(sums) - 1)), len(sums) - 1.0


def paired_difference_parts(
    a: Mapping[str, float], b: Mapping[str, float], clusters: Mapping[str, str | None] | None = None
) -> tuple[float, float, float, int, int]:
    """Mean, SE, df, problems used and dropped of a − b over the shared problems."""
    ids = same_problems(("after", "before"), (a, b))
    gaps = np.array([a[i] - b[i] for i in ids], dtype=float)
    keep = ~np.isnan(gaps)
    labels = pick_clusters(clusters, [i for i, used in zip(ids, keep, strict=True) if used])
    value, se, df = mean_and_se(gaps[keep], labels)
    return value, se, df, int(keep.sum()), int((~keep).sum())


def welch_df(variances: Sequence[float], dfs: Sequence[float]) -> float:
    """Satterthwaite degrees of freedom of a sum of independent variance estimates (their sum 0: the smallest df)."""
    total = sum(variances)
    if math.isnan(total):
        return math.nan
    below = sum(v**2 / d for v, d in zip(variances, dfs, strict=True))
    return total**2 / below if below > 0 else min(dfs)
