"""How often each printed interval holds the truth, on simulated problems. ``python tests/opsd_eval/interval_coverage.py``.

A scenario draws one data set of N problems and returns (low, high, truth). Problem difficulties are Beta(.35, .65),
the U shape of mathematics benchmarks; 16 draws a problem; true pass@k follows from the Beta's moments.
"""

from __future__ import annotations

import sys
from math import comb, nan

import numpy as np

from opsd_eval import stats
from opsd_eval.metrics.pairs import crossover_k

A, B, DRAWS = 0.35, 0.65, 16


def true_pass(k):
    return 1 - np.prod([(B + j) / (A + B + j) for j in range(k)])


def pass_scores(right, k, n=DRAWS):
    return np.array([1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])[right]


def bounds(found, truth):
    return found.low, found.high, truth


def one_model(k, interval):
    def scenario(rng, n):
        right = rng.binomial(DRAWS, rng.beta(A, B, n))
        return bounds(interval(pass_scores(right, k)), true_pass(k))

    return scenario


def skewed(interval):
    def scenario(rng, n):
        return bounds(interval(rng.lognormal(0, 1, n)), np.exp(0.5))

    return scenario


def clustered(sizes):
    """N clusters (templates); ``sizes(rng, n)`` problems each, with a shared difficulty."""

    def scenario(rng, n):
        count = sizes(rng, n)
        labels = np.repeat(np.arange(n), count)
        shared = rng.beta(A, B, n)[labels]
        return bounds(stats.mean_estimate(rng.binomial(4, shared) / 4, clusters=labels.tolist()), A)

    return scenario


def rare(rng, n):
    """A share with mean .05 that differs between problems, such as a loop rate."""
    return bounds(stats.mean_estimate(rng.binomial(DRAWS, rng.beta(0.1, 1.9, n)) / DRAWS), 0.05)


def redraw(rng, n):
    p = np.random.default_rng(5).beta(A, B, n)
    draws = {str(i): (rng.random(DRAWS) < p[i]).astype(float) for i in range(n)}
    return bounds(stats.redraw_estimate(draws), p.mean())


def named(values):
    return {str(i): float(v) for i, v in enumerate(values)}


def after_training(p, odds):
    return p * odds / (1 - p + p * odds)


_GRID = np.random.default_rng(1).beta(A, B, 2_000_000)


def _mean_after(odds, cache={}):  # noqa: B006
    if odds not in cache:
        cache[odds] = float(after_training(_GRID, odds).mean())
    return cache[odds]


def two_models(rng, n, odds):
    """Scores of base and of a trained model whose odds are multiplied, on the same problems."""
    p = rng.beta(A, B, n)
    return [named(rng.binomial(DRAWS, after_training(p, o)) / DRAWS) for o in odds]


def paired(rng, n):
    base, after = two_models(rng, n, (1.0, 2.0))
    return bounds(stats.paired_difference(after, base), _mean_after(2.0) - A)


def gap(rng, n):
    id_before, id_after = two_models(rng, n, (1.0, 3.0))
    ood_before, ood_after = two_models(rng, n, (1.0, 1.5))
    found = stats.difference_in_differences(id_after, id_before, ood_after, ood_before)
    return bounds(found, _mean_after(3.0) - _mean_after(1.5))


def sharpened(p):
    """What training does that lifts what is mostly solved and loses what is rarely solved."""
    return np.where(p > 0.15, after_training(p, 3.0), p / 4)


def lost_support(rng, n):
    p = rng.beta(A, B, n)
    lost = (rng.binomial(DRAWS, p) > 0) & (rng.binomial(DRAWS, sharpened(p)) == 0)
    return bounds(stats.mean_estimate(lost.astype(float)), _LOST)


_LOST = float(((1 - (1 - _GRID) ** DRAWS) * (1 - sharpened(_GRID)) ** DRAWS).mean())


def hard_tail_values(rng, p):
    """hard_tail_retention of every problem: base in two halves, NaN where neither half says "hard"."""
    halves = [rng.binomial(DRAWS // 2, p) / (DRAWS // 2) for _ in range(2)]
    other = rng.binomial(DRAWS, sharpened(p)) / DRAWS
    gaps = [np.where((a > 0) & (a <= 0.25), other - b, np.nan) for a, b in (halves, halves[::-1])]
    known = ~np.isnan(gaps)
    return np.where(known.any(axis=0), np.nansum(gaps, axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


_TAIL = float(np.nanmean(hard_tail_values(np.random.default_rng(3), _GRID)))


def hard_tail(rng, n):
    return bounds(stats.mean_estimate(hard_tail_values(rng, rng.beta(A, B, n))), _TAIL)


def crossover(rng, n):
    """Bootstrap of crossover_k on the scale 1/k; the true curves cross at k = 5."""
    p = rng.beta(A, B, n)
    draws = np.full(n, DRAWS)
    rows = np.stack([draws, rng.binomial(DRAWS, p), draws, rng.binomial(DRAWS, sharpened(p))], axis=1).astype(float)
    found = stats.bootstrap_estimate(rows, statistic=lambda r: 1 / crossover_k(r), n_resamples=500)
    return bounds(found, 1 / _CROSSING)


_FEW = _GRID[:300_000]
_CURVES = [np.array([(1 - (1 - q) ** k).mean() for k in range(1, DRAWS + 1)]) for q in (_FEW, sharpened(_FEW))]
_CROSSING = int(np.flatnonzero(_CURVES[0] <= _CURVES[1])[-1]) + 2


def in_clusters(rng, n, odds, name):
    """Scores of base and a trained model on n clusters of five problems that share a difficulty, and their clusters."""
    labels = np.repeat(np.arange(n), 5)
    p = rng.beta(A, B, n)[labels]
    ids = [f"{name}{i}" for i in range(5 * n)]
    before, after = (dict(zip(ids, rng.binomial(4, q) / 4, strict=True)) for q in (p, after_training(p, odds)))
    return before, after, {i: f"{name}{c}" for i, c in zip(ids, labels, strict=True)}


def clustered_pair(rng, n):
    before, after, clusters = in_clusters(rng, n, 2.0, "p")
    return bounds(stats.paired_difference(after, before, clusters=clusters), _mean_after(2.0) - A)


def clustered_gap(rng, n):
    id_before, id_after, inner = in_clusters(rng, n, 3.0, "i")
    ood_before, ood_after, outer = in_clusters(rng, n, 1.5, "o")
    clusters = inner | outer
    found = stats.difference_in_differences(id_after, id_before, ood_after, ood_before, clusters=clusters)
    return bounds(found, _mean_after(3.0) - _mean_after(1.5))


def clustered_seeds(rng, n):
    """3 bases x 3 runs on n clusters of four problems that share their part of the effect."""
    labels = np.repeat(np.arange(n), 4)
    shared, runs = rng.normal(0, 0.2, n), {}
    for b in range(3):
        shift, by_cluster = rng.normal(0, 0.05), rng.normal(0, 0.1, n)
        for t in range(3):
            run = shift + rng.normal(0, 0.05) + (shared + by_cluster)[labels] + rng.normal(0, 0.2, 4 * n)
            runs[b, t] = named(run)
    return bounds(stats.across_seeds(runs, clusters={str(i): str(c) for i, c in enumerate(labels)}), 0.0)


def retained(rng, n):
    before, after = two_models(rng, n, (1.0, 0.5))
    return bounds(stats.retention(after, before), _mean_after(0.5) / A)


def recovered(rng, n):
    base, standard, purified = two_models(rng, n, (1.0, 0.2, 0.6))
    truth = (_mean_after(0.6) - _mean_after(0.2)) / (A - _mean_after(0.2))
    return bounds(stats.recovered_fraction(base, standard, purified), truth)


def seed_runs(rng, n, spread, effect=0.0, n_bases=3):
    """Differences of bases x 3 training seeds x n problems; ``spread`` = sd of (base, training, problem, noise)."""
    base_sd, train_sd, problem_sd, noise_sd = spread
    problem = rng.normal(0, problem_sd, n)
    runs = {}
    for b in range(n_bases):
        shift, by_problem = rng.normal(0, base_sd), rng.normal(0, noise_sd, n)
        for t in range(3):
            run = effect + shift + rng.normal(0, train_sd) + problem + by_problem + rng.normal(0, noise_sd, n)
            runs[b, t] = dict(enumerate(run))
    return runs


def seeds(*spread):
    return lambda rng, n: bounds(stats.across_seeds(seed_runs(rng, n, spread)), 0.0)


def seeds_gap(rng, n):
    """ID and OOD changes share the bases' shifts; the true gap is 0."""
    first = seed_runs(rng, n, (0.0, 0.02, 0.2, 0.2))
    second = seed_runs(rng, n, (0.02, 0.0, 0.2, 0.2))
    return bounds(stats.gap_across_seeds(first, second), 0.0)


def seeds_recovered(rng, n):
    lost = seed_runs(rng, n, (0.02, 0.02, 0.2, 0.1), effect=0.4)
    back = seed_runs(rng, n, (0.02, 0.02, 0.1, 0.1), effect=0.2)
    zero = {key: dict.fromkeys(values, 0.0) for key, values in lost.items()}
    minus = {key: {i: -v for i, v in values.items()} for key, values in lost.items()}
    up = {key: {i: minus[key][i] + back[key][i] for i in values} for key, values in lost.items()}
    return bounds(stats.recovered_fraction_across_seeds(zero, minus, up), 0.5)


def percentile(values):
    return stats.bootstrap_estimate(values, n_resamples=2000)


def bca(values):
    return stats.bca_estimate(values, n_resamples=2000)


HALF, FULL = DRAWS // 2, DRAWS
# name: (scenario, lowest and highest coverage at N = 30, the same at N = 500)
USUAL = (0.93, 0.97)
WIDE = (0.93, 0.985)  # Cochran-Cox is on the wide side
SCENARIOS = {
    "t avg": (one_model(1, stats.mean_estimate), USUAL, USUAL),
    "t pass@8 of 16": (one_model(HALF, stats.mean_estimate), USUAL, USUAL),
    "t pass@16 of 16": (one_model(FULL, stats.mean_estimate), (0.89, 0.97), USUAL),
    "t lognormal": (skewed(stats.mean_estimate), (0.88, 0.95), USUAL),
    "percentile avg": (one_model(1, percentile), USUAL, USUAL),
    "percentile pass@8": (one_model(HALF, percentile), USUAL, USUAL),
    "bca avg": (one_model(1, bca), USUAL, USUAL),
    "bca pass@8": (one_model(HALF, bca), USUAL, USUAL),
    "bca lognormal": (skewed(bca), (0.88, 0.97), USUAL),
    "t equal clusters": (clustered(lambda rng, n: np.full(n, 5)), USUAL, USUAL),
    "t unequal clusters": (clustered(lambda rng, n: 1 + rng.geometric(0.2, n)), (0.90, 0.97), USUAL),
    "t rare share": (rare, (0.85, 0.97), USUAL),
    "t lost support": (lost_support, (0.85, 0.97), USUAL),
    "t hard tail": (hard_tail, USUAL, USUAL),
    "crossover_k": (crossover, (0.93, 1.0), (0.93, 1.0)),
    "redraw": (redraw, USUAL, USUAL),
    "paired, clusters": (clustered_pair, USUAL, USUAL),
    "did, clusters": (clustered_gap, USUAL, USUAL),
    "seeds: clusters": (clustered_seeds, WIDE, WIDE),
    "paired": (paired, USUAL, USUAL),
    "did": (gap, USUAL, USUAL),
    "retention": (retained, USUAL, USUAL),
    "recovered": (recovered, USUAL, USUAL),
    "seeds: only problems vary": (seeds(0, 0, 0.3, 0.1), WIDE, WIDE),
    "seeds: training noise": (seeds(0, 0.05, 0.2, 0.2), WIDE, WIDE),
    "seeds: base and training": (seeds(0.05, 0.05, 0.2, 0.2), WIDE, WIDE),
    "seeds: base noise rules": (seeds(0.3, 0.1, 0.05, 0.05), WIDE, WIDE),
    "seeds: draws rule": (seeds(0, 0, 0.02, 0.3), WIDE, WIDE),
    "seeds gap": (seeds_gap, WIDE, WIDE),
    "seeds recovered": (seeds_recovered, WIDE, WIDE),
}


#: Simulations at most, where one takes a tenth of a second.
FEWER = {"crossover_k": 300}


def coverage(name, n, sims, seed=0):
    """Share of simulated data sets whose interval holds the truth (an undefined interval counts as a miss)."""
    scenario = SCENARIOS[name][0]
    rng = np.random.default_rng([seed, n])
    hits, sims = 0, min(sims, FEWER.get(name, sims))
    for _ in range(sims):
        low, high, truth = scenario(rng, n)
        hits += low <= truth <= high
    return hits / sims if sims else nan


if __name__ == "__main__":
    sims = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for name in SCENARIOS:
        print(f"{name:28s} N=30 {coverage(name, 30, sims):.3f}   N=500 {coverage(name, 500, sims // 2):.3f}", flush=True)
