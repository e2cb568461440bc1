"""Intervals that cross seeds and problems."""

from __future__ import annotations

import math

import interval_coverage as coverage
import numpy as np
import pytest
from scipy import stats as scipy_stats

from opsd_eval import stats
from opsd_eval.stats_seeds import crossed, seed_table


def runs(table, n_train=1):
    """{(base, 0): {problem: value}} from a bases × problems table."""
    return {(b, t): {f"p{i}": v for i, v in enumerate(row)} for b, row in enumerate(table) for t in range(n_train)}


def test_crossed_variance_by_hand():
    # bases × problems, additive, so no interaction: base means 1, 2, 6 (S² = 7), problem means 2, 4 (S² = 2)
    table = [[0.0, 2.0], [1.0, 3.0], [5.0, 7.0]]
    found = crossed([seed_table(runs(table))])
    assert found.value == 3
    assert found.seed_variance == pytest.approx(7 / 3)
    assert found.problem_variance == pytest.approx(2 / 2)
    assert (found.seed_df, found.problem_df) == (2, 1)
    t2, t1 = scipy_stats.t.ppf(0.975, [2, 1])
    critical = (7 / 3 * t2 + 1 * t1) / (7 / 3 + 1)
    whole = stats.across_seeds(runs(table))
    assert whole.high - 3 == pytest.approx(critical * math.sqrt(10 / 3))
    assert whole.seed_sd == pytest.approx(math.sqrt(7))
    assert (whole.n_seeds, whole.n_problems, whole.scope) == (3, 2, "method")


def test_interaction_is_not_counted_twice():
    # residuals ±1 in a 2 × 2 corner: rows (1, -1, 0), (-1, 1, 0), (0, 0, 0)
    table = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = crossed([seed_table(runs(table))])
    assert (found.seed_variance, found.problem_variance) == (0, 0)  # S²_i/N = 0 minus MS/(BN), floored
    table[:, 0] += 6.0  # problem means 6, 0, 0: S² = 12; MS = 4/4 = 1
    assert crossed([seed_table(runs(table))]).problem_variance == pytest.approx(12 / 3 - 1 / 9)


def test_p_value_touches_zero_where_the_interval_does():
    rng = np.random.default_rng(0)
    data = coverage.seed_runs(rng, 40, (0.05, 0.05, 0.2, 0.2), effect=0.2)
    found = stats.across_seeds(data)
    edge = stats.across_seeds(data, level=1 - found.p_value)
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)


def test_training_seeds_are_averaged_within_their_base():
    rng = np.random.default_rng(0)
    table = rng.random((3, 10))
    once = stats.across_seeds(runs(table))
    twice = stats.across_seeds(runs(table, n_train=2))
    assert (twice.value, twice.low) == (pytest.approx(once.value), pytest.approx(once.low))
    assert "6 runs" in twice.method


def test_fewer_than_three_bases_is_a_statement_about_checkpoints():
    table = np.random.default_rng(0).random((2, 12))
    found = stats.across_seeds(runs(table))
    plain = stats.paired_difference(
        {f"p{i}": v for i, v in enumerate(table.mean(axis=0))}, {f"p{i}": 0.0 for i in range(12)}
    )
    assert (found.low, found.high, found.p_value) == (pytest.approx(plain.low), pytest.approx(plain.high), plain.p_value)
    assert found.scope == "checkpoints" and "these checkpoints only (2 base seeds" in found.method
    assert found.seed_sd == pytest.approx(table.mean(axis=1).std(ddof=1))
    one = stats.across_seeds(runs(table[:1], n_train=3))
    assert one.n_seeds == 1 and math.isnan(one.seed_sd) and "1 base seed," in one.method


def test_many_training_seeds_do_not_replace_bases():
    rng = np.random.default_rng(0)
    found = stats.across_seeds({(0, t): {f"p{i}": rng.random() for i in range(9)} for t in range(9)})
    assert found.scope == "checkpoints"


def test_missing_values_and_empty_input():
    table = np.arange(12.0).reshape(3, 4)
    table[1, 2] = math.nan
    found = stats.across_seeds(runs(table))
    assert (found.n_problems, found.n_dropped) == (3, 1)
    two = runs(np.arange(12.0).reshape(3, 4), n_train=2)
    two[1, 0]["p2"] = math.nan  # the other training seed still has it
    assert stats.across_seeds(two).n_dropped == 0
    assert math.isnan(stats.across_seeds({}).value)
    assert math.isnan(stats.across_seeds({(b, 0): {} for b in range(3)}).value)


def test_bad_input_teaches():
    with pytest.raises(ValueError, match=r"seed key 0: give \(base seed, training seed\)"):
        stats.across_seeds({0: {"p": 1.0}})
    with pytest.raises(ValueError, match=r"only in seeds \(0, 0\): 'p1'; only in seeds \(1, 0\): 'q'"):
        stats.across_seeds({(0, 0): {"p0": 1.0, "p1": 1.0}, (1, 0): {"p0": 1.0, "q": 2.0}})
    with pytest.raises(ValueError, match=r"different seeds: \(1, 0\)"):
        stats.gap_across_seeds({(0, 0): {"p": 1.0}, (1, 0): {"p": 1.0}}, {(0, 0): {"p": 1.0}})
    with pytest.raises(ValueError, match="not in all three"):
        stats.recovered_fraction_across_seeds({(0, 0): {}}, {(0, 1): {}}, {(0, 0): {}})


def test_clusters_widen_the_problem_part():
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(0, 1, 10), 5)
    table = shared + rng.normal(0, 0.1, (3, 50))
    clusters = {f"p{i}": f"c{i // 5}" for i in range(50)}
    wide, narrow = stats.across_seeds(runs(table), clusters=clusters), stats.across_seeds(runs(table))
    assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low)
    singles = stats.across_seeds(runs(table), clusters={i: i for i in clusters})
    assert singles.low == pytest.approx(narrow.low)


def test_one_cluster_leaves_a_statement_about_checkpoints_without_an_interval():
    """Four bases, but problems that are all variants of one: nothing says how problems vary."""
    rng = np.random.default_rng(0)
    low, high = runs(rng.normal(0, 0.1, (4, 20))), runs(rng.normal(1, 0.1, (4, 20)))
    clusters = dict.fromkeys(low[0, 0], "the same")
    ratio = stats.recovered_fraction_across_seeds(high, low, high, clusters=clusters)
    assert math.isnan(ratio.value) and "cannot be made" in ratio.method
    for found in (stats.across_seeds(high, clusters=clusters), stats.gap_across_seeds(high, low, clusters=clusters)):
        assert found.value > 0.8 and math.isnan(found.low) and found.scope == "checkpoints"
        assert "these checkpoints only" in found.method


def test_gap_with_shared_base_shift_cancels():
    """Bases that shift ID and OOD alike leave no seed variance in the gap."""
    rng = np.random.default_rng(0)
    shifts = rng.normal(0, 1, (3, 1))
    inside, outside = runs(shifts + rng.normal(0, 0.1, 40)), runs(shifts + rng.normal(0, 0.1, 30) - 0.5)
    found = stats.gap_across_seeds(inside, outside)
    assert found.low < 0.5 < found.high and found.high - found.low < 0.2
    assert (found.n_problems, found.scope) == (70, "method")
    few = stats.gap_across_seeds({k: v for k, v in inside.items() if k[0] < 2}, {k: outside[k] for k in ((0, 0), (1, 0))})
    assert few.scope == "checkpoints" and "these checkpoints only" in few.method


def test_estimate_across_seeds_is_a_level():
    found = stats.estimate_across_seeds(runs(np.random.default_rng(0).random((3, 20))))
    assert isinstance(found, stats.Estimate) and found.low < found.value < found.high


def test_recovered_fraction_across_seeds():
    rng = np.random.default_rng(3)
    base = runs(rng.random((3, 30)) + 1)
    standard = {k: {i: v - 0.6 + rng.normal(0, 0.05) for i, v in row.items()} for k, row in base.items()}
    purified = {k: {i: v + 0.3 + rng.normal(0, 0.05) for i, v in row.items()} for k, row in standard.items()}
    found = stats.recovered_fraction_across_seeds(base, standard, purified)
    assert found.low < 0.5 < found.high and found.value == pytest.approx(0.5, abs=0.05)
    nothing = stats.recovered_fraction_across_seeds(base, base, purified)
    assert math.isnan(nothing.value) and "contains 0" in nothing.method
    few = {k: v for k, v in base.items() if k[0] == 0}
    checkpoint = stats.recovered_fraction_across_seeds(few, {(0, 0): standard[0, 0]}, {(0, 0): purified[0, 0]})
    plain = stats.recovered_fraction(few[0, 0], standard[0, 0], purified[0, 0])
    assert checkpoint.low == pytest.approx(plain.low) and "these checkpoints only" in checkpoint.method


def test_bases_that_agree_exactly():
    """No variance between bases: the problems' t alone, and a p-value that does not overflow."""
    found = stats.across_seeds(runs([[1.0, 2.0, 3.0, 4.0]] * 3))
    assert found.high - found.value == pytest.approx(scipy_stats.t.ppf(0.975, 3) * np.std([1, 2, 3, 4], ddof=1) / 2)
    assert found.p_value == pytest.approx(scipy_stats.ttest_1samp([1, 2, 3, 4], 0).pvalue)
    same = stats.across_seeds(runs([[1.0, 1.0]] * 3))
    assert (same.low, same.high, same.p_value, same.mde) == (1.0, 1.0, 0.0, 0.0)
    huge = stats.across_seeds(runs([[1e9, 1e9 + 1e-3]] * 3))
    assert 0 <= huge.p_value < 1e-6
