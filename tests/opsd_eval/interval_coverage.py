"""How often each printed interval holds the truth, on simulated problems. ``python tests/opsd_eval/interval_coverage.py``.

A scenario draws one data set of N problems and returns (low, high, truth). Problem difficulties are Beta(.35, .65),
the U shape of mathematics benchmarks; 16 draws a problem; true pass@k follows from the Beta's moments.
"""

from __future__ import annotations

import sys
from math import comb, nan

import numpy as np

from opsd_eval import stats

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
    "redraw": (redraw, USUAL, USUAL),
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


def coverage(name, n, sims, seed=0):
    """Share of simulated data sets whose interval holds the truth (an undefined interval counts as a miss)."""
    scenario = SCENARIOS[name][0]
    rng = np.random.default_rng([seed, n])
    hits = 0
    for _ in range(sims):
        low, high, truth = scenario(rng, n)
        hits += low <= truth <= high
    return hits / sims if sims else nan


if __name__ == "__main__":
    sims = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for name in SCENARIOS:
        print(f"{name:28s} N=30 {coverage(name, 30, sims):.3f}   N=500 {coverage(name, 500, sims // 2):.3f}", flush=True)
