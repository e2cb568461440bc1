"""Intervals that cross seeds and problems: what a claim about a method needs.

The model, for base seed b, training seed t (nested in b) and problem i:
``d_bti = μ + B_b + T_bt + P_i + (BP)_bi + (TP)_bti + noise``. Everything that is redrawn when somebody repeats the
study with new bases, new training runs and new problems is a random effect. Training seeds are averaged within their
base first, so their noise ends up in the spread between bases, where it belongs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from opsd_eval.stats_estimates import (
    POWER,
    Difference,
    Estimate,
    check_level,
    cluster_codes,
    effect_for,
    mean_and_se,
    pick_clusters,
    same_problems,
    t_p_value,
    t_quantile,
    welch_df,
)
from opsd_eval.stats_verdicts import sign_flip_p

MIN_BASE_SEEDS = 3
SeedKey = tuple[Hashable, Hashable]
BySeed = Mapping[SeedKey, Mapping[str, float]]
Clusters = Mapping[str, str | None] | None


@dataclass(frozen=True)
class Table:
    """Mean difference of every base seed (rows) on every problem (columns), without missing cells."""

    cells: np.ndarray
    labels: list[str | None] | None
    bases: tuple[Hashable, ...]
    n_runs: int
    n_dropped: int

    def minus(self, other: Table, factor: float = 1.0) -> Table:
        """This table minus ``factor`` times another over the same bases and problems."""
        return Table(self.cells - factor * other.cells, self.labels, self.bases, self.n_runs, self.n_dropped)

    def crosses(self) -> bool:
        """Whether there are bases, problems and clusters enough for an interval that crosses them."""
        n_bases, n_problems = self.cells.shape
        one_cluster = bool(self.labels) and len(set(cluster_codes(self.labels))) < 2
        return n_bases >= MIN_BASE_SEEDS and n_problems >= 2 and not one_cluster


def seed_table(differences: BySeed, clusters: Clusters = None) -> Table:
    """Average training seeds within their base; a problem that some base lacks altogether (NaN) is dropped."""
    if not differences:
        return Table(np.empty((0, 0)), None, (), 0, 0)
    for key in differences:
        if not isinstance(key, tuple) or len(key) != 2:
            raise ValueError(f"seed key {key!r}: give (base seed, training seed), such as (0, 1)")
    names = [f"seeds {key}" for key in differences]
    ids = same_problems(names, list(differences.values()))
    bases = tuple(dict.fromkeys(base for base, _ in differences))
    rows = []
    for base in bases:
        runs = np.array([[values[i] for i in ids] for key, values in differences.items() if key[0] == base], float)
        known = ~np.isnan(runs)
        count = known.sum(axis=0)
        rows.append(np.where(count > 0, np.where(known, runs, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan))
    table = np.array(rows).reshape(len(bases), len(ids))
    keep = np.flatnonzero(~np.isnan(table).any(axis=0))
    labels = pick_clusters(clusters, [ids[i] for i in keep])
    return Table(table[:, keep], labels, bases, len(differences), len(ids) - len(keep))


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and problems with the two parts of its variance."""

    value: float
    seed_variance: float
    problem_variance: float
    seed_df: float
    problem_df: float
    seed_sd: float

    @property
    def se(self) -> float:
        """Standard error over seeds and problems."""
        return math.sqrt(self.seed_variance + self.problem_variance)

    def weighted_t(self, tail: float) -> float:
        """Cochran–Cox quantile with this upper tail: the t quantiles of both parts, weighted by their variances."""
        total = self.seed_variance + self.problem_variance
        by_seed, by_problem = -stdtrit(self.seed_df, tail), -stdtrit(self.problem_df, tail)
        if not total > 0:
            return float(by_seed)
        return float((self.seed_variance * by_seed + self.problem_variance * by_problem) / total)

    def half_width(self, level: float) -> float:
        """Half the width of the interval; 0 when nothing varies."""
        return self.weighted_t((1 - level) / 2) * self.se if self.se > 0 else 0.0

    def p_value(self) -> float:
        """The level at which the interval just touches 0."""
        if not self.se > 0:
            return float(self.value == 0)
        target, low, high = abs(self.value) / self.se, 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if self.weighted_t(middle / 2) > target:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def crossed(tables: Sequence[Table]) -> Crossed:
    """Mean of the first table minus the mean of the second (if given), variance over base seeds and problems.

    Per table (B bases, N problems): ``V_problem = max(0, S²_i/N − MS_bi/(BN))`` with S²_i the variance of the problem
    means and MS_bi the interaction mean square; ``V_seed = S²_b/B`` with S²_b the variance of the bases' (differences
    of) means, which already holds noise from training seeds, interaction and draws. With clusters the problem and the
    interaction terms are summed within clusters first.
    """
    means = np.array([t.cells.mean(axis=1) for t in tables])
    per_base = means[0] - means[1] if len(tables) == 2 else means[0]
    n_bases = len(per_base)
    variances, dfs = [], []
    for table in tables:
        columns = table.cells.mean(axis=0)
        _, se, df = mean_and_se(columns, table.labels)
        residual = table.cells - columns - table.cells.mean(axis=1, keepdims=True) + columns.mean()
        shared = sum(_squared_error(row, table.labels) for row in residual) / (n_bases * (n_bases - 1))
        variances.append(max(0.0, se**2 - shared))
        dfs.append(df)
    return Crossed(
        float(per_base.mean()), float(per_base.var(ddof=1)) / n_bases, sum(variances), n_bases - 1.0,
        welch_df(variances, dfs), float(per_base.std(ddof=1)),
    )


def _squared_error(row: np.ndarray, labels: list[str | None] | None) -> float:
    sums = row if labels is None else np.bincount(cluster_codes(labels), weights=row)
    groups = len(sums)
    return float((sums**2).sum()) * groups / (groups - 1) / len(row) ** 2


def across_seeds(differences: BySeed, *, clusters: Clusters = None, level: float = 0.95) -> Difference:
    """Mean difference of a *method*: interval and p-value over base seeds, training seeds and problems.

    ``differences[(base_seed, train_seed)][problem_id]``. ``value ± t' · sqrt(V_seed + V_problem)`` (:func:`crossed`)
    with ``t' = (V_seed t_{B−1} + V_problem t_{N−1}) / (V_seed + V_problem)``: with 3 bases that differ the critical
    value is 4.3, with bases that agree it is 2. The more usual Satterthwaite degrees of freedom reject a true null up
    to .077 of the time at 3 bases; this rule .027–.057, so it is on the wide side where both parts matter (coverage
    .940–.973 over 3 bases x 3 training seeds, N = 30 and 500 problems or clusters of four). Fewer than 3 base seeds:
    the interval is over problems only, ``scope`` is ``checkpoints`` and ``method`` says so. Training seeds are averaged
    within their base, so more of them help only as far as training noise matters. NaN: see :func:`seed_table`.
    Different problem sets raise.

    Source: two-way random effects (Cornfield & Tukey 1956), Cochran & Cox 1957 for t'. Differs: no.
    """
    check_level(level)
    table = seed_table(differences, clusters)
    return _over_seeds(table, level) if table.crosses() else _these_checkpoints(table, level)


def _over_seeds(table: Table, level: float) -> Difference:
    n_bases, n_problems = table.cells.shape
    method = f"{n_bases} base seeds x {table.n_runs} runs x problems, crossed; Cochran-Cox t"
    return _method_difference(crossed([table]), level, (n_bases, n_problems, table.n_dropped), method)


def gap_across_seeds(
    id_differences: BySeed, ood_differences: BySeed, *, clusters: Clusters = None, level: float = 0.95
) -> Difference:
    """Difference in differences of a method: ID change − OOD change, over the same base seeds, crossed as above.

    The bases' own gaps vary between bases (df B − 1); the two problem sets add their problem variances. Fewer than 3
    base seeds: over problems only, ``scope`` is ``checkpoints``. Different seeds on the two sides raise. Coverage with
    3 bases .974 at N = 30 and .971 at N = 500 a side: wide by up to .004.
    """
    check_level(level)
    if id_differences.keys() != ood_differences.keys():
        odd = sorted(map(str, id_differences.keys() ^ ood_differences.keys()))
        raise ValueError(f"in- and out-of-distribution runs have different seeds: {', '.join(odd)} on one side only")
    tables = [seed_table(id_differences, clusters), seed_table(ood_differences, clusters)]
    n_bases = len(tables[0].bases)
    sizes = (n_bases, sum(t.cells.shape[1] for t in tables), sum(t.n_dropped for t in tables))
    if all(table.crosses() for table in tables):
        method = f"{n_bases} base seeds x problems, difference in differences, crossed; Cochran-Cox t"
        return _method_difference(crossed(tables), level, sizes, method)
    means, errors, dfs = zip(*(mean_and_se(_columns(t), t.labels) for t in tables), strict=True)
    se = math.hypot(*errors)
    df = welch_df([e**2 for e in errors], dfs)
    value, half = means[0] - means[1], t_quantile(df, level) * se
    p_value = t_p_value(value / se, df) if se > 0 else math.nan
    return Difference(
        value, value - half, value + half, p_value, effect_for(se, df, level), sizes[1], sizes[2],
        f"difference in differences over problems; {_few(n_bases)}", n_bases, _seed_sd(tables),
    )


def estimate_across_seeds(values: BySeed, *, clusters: Clusters = None, level: float = 0.95) -> Estimate:
    """A level (such as accuracy) over base seeds, training seeds and problems; interval as :func:`across_seeds`."""
    check_level(level)
    table = seed_table(values, clusters)
    if table.crosses():
        found = _over_seeds(table, level)
        return Estimate(found.value, found.low, found.high, found.n_problems, found.n_dropped, found.method)
    value, se, df = mean_and_se(_columns(table), table.labels)
    half = t_quantile(df, level) * se
    method = f"t over problems; {_few(len(table.bases))}"
    return Estimate(value, value - half, value + half, table.cells.shape[1], table.n_dropped, method)


def _method_difference(found: Crossed, level: float, sizes: tuple[int, int, int], method: str) -> Difference:
    n_bases, n_problems, n_dropped = sizes
    half = found.half_width(level)
    mde = (found.weighted_t((1 - level) / 2) + found.weighted_t(1 - POWER)) * found.se
    return Difference(
        found.value, found.value - half, found.value + half, found.p_value(), mde, n_problems, n_dropped, method,
        n_bases, found.seed_sd, "method",
    )


def _columns(table: Table) -> np.ndarray:
    """One value a problem, the mean over bases."""
    return table.cells.mean(axis=0) if len(table.cells) else np.array([])


def _these_checkpoints(table: Table, level: float) -> Difference:
    columns = _columns(table)
    value, se, df = mean_and_se(columns, table.labels)
    half = t_quantile(df, level) * se
    sums = columns if table.labels is None else np.bincount(cluster_codes(table.labels), weights=columns)
    return Difference(
        value, value - half, value + half, sign_flip_p(sums), effect_for(se, df, level), len(columns),
        table.n_dropped, f"paired t over problems; sign-flip p; {_few(len(table.bases))}", len(table.bases),
        _seed_sd([table]),
    )


def _few(n_bases: int) -> str:
    if n_bases >= MIN_BASE_SEEDS:
        return "these checkpoints only (fewer than 2 problems or clusters left)"
    return f"these checkpoints only ({n_bases} base seed{'' if n_bases == 1 else 's'}, a method needs {MIN_BASE_SEEDS})"


def _seed_sd(tables: Sequence[Table]) -> float:
    if len(tables[0].bases) < 2 or any(t.cells.shape[1] == 0 for t in tables):
        return math.nan
    means = [t.cells.mean(axis=1) for t in tables]
    return float((means[0] - means[1] if len(means) == 2 else means[0]).std(ddof=1))
