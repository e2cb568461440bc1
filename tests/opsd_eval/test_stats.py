"""Statistics: values derived by hand, edge cases, and the seam between functions."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from opsd_eval import stats
from opsd_eval.stats import Difference, Estimate


def ids(values):
    return {f"p{i}": float(v) for i, v in enumerate(values)}


def difference(low, high, value=None):
    return Difference((low + high) / 2 if value is None else value, low, high, 0.01, 0.1, 10, 0, "test")


# --- printing ---------------------------------------------------------------------------------------------


def test_estimate_prints_itself():
    assert str(Estimate(0.7312, 0.691, 0.772, 100, 0, "t")) == "0.731 [0.69, 0.77] (n=100, dropped 0)"
    assert str(Estimate(1234.56, 1200.1, 1269.0, 30, 2, "t")) == "1234.6 [1200, 1269] (n=30, dropped 2)"
    assert str(Estimate(0.5, 0.4993, 0.5007, 9, 0, "t")) == "0.50000 [0.4993, 0.5007] (n=9, dropped 0)"
    assert str(stats.mean_estimate([])) == "undefined (n=0, dropped 0)"
    assert str(stats.mean_estimate([0.5])) == "0.500 [no interval] (n=1, dropped 0)"
    assert str(difference(0.01, 0.05)) == "+0.030 [0.01, 0.05] (n=10, dropped 0, p=0.01, MDE 0.100)"


# --- one model --------------------------------------------------------------------------------------------


def test_mean_estimate_by_hand():
    # 0, 0, 1, 1: mean .5, sum of squares 1, SE = sqrt(1 / (4·3)) = .288675, t_3 = 3.182446
    found = stats.mean_estimate([0, 0, 1, 1])
    assert found.value == 0.5
    assert found.high - 0.5 == pytest.approx(3.182446 * 0.288675, rel=1e-5)
    assert (found.n_problems, found.n_dropped, found.method) == (4, 0, "t over problems")


def test_cluster_robust_by_hand():
    # clusters {1, 1}, {0}, {0}: mean .5; sums of residuals 1, -.5, -.5; SE = sqrt(1.5 · 3/2) / 4 = .375; df 2
    found = stats.mean_estimate([1, 1, 0, 0], clusters=["a", "a", "b", "c"])
    assert found.value == 0.5
    assert found.high - 0.5 == pytest.approx(scipy_stats.t.ppf(0.975, 2) * 0.375)
    assert found.method == "t over 3 clusters"
    assert stats.mean_estimate([1, 1, 0, 0], clusters=["a", "a", None, None]) == found
    single = stats.mean_estimate([1.0, 2.0], clusters=["a", "a"])
    assert single.value == 1.5 and math.isnan(single.low)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40))
def test_singleton_clusters_change_nothing(values):
    plain, singles = stats.mean_estimate(values), stats.mean_estimate(values, clusters=list(range(len(values))))
    assert singles.value == plain.value
    assert singles.low == pytest.approx(plain.low, abs=1e-9) and singles.high == pytest.approx(plain.high, abs=1e-9)


def test_missing_is_dropped_and_counted():
    found = stats.mean_estimate([0.0, math.nan, 1.0], clusters=["a", "b", "c"])
    assert (found.value, found.n_problems, found.n_dropped) == (0.5, 2, 1)
    for function in (stats.mean_estimate, stats.bootstrap_estimate, stats.bca_estimate):
        empty = function([math.nan, math.nan])
        assert math.isnan(empty.value) and math.isnan(empty.low) and (empty.n_problems, empty.n_dropped) == (0, 2)
        assert math.isnan(function([]).value)


def test_bad_arguments_teach():
    with pytest.raises(ValueError, match=r"level=95.*0\.95"):
        stats.mean_estimate([1, 2], level=95)
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        stats.mean_estimate([1, 2], clusters=["a"])
    with pytest.raises(ValueError, match="2 rows but 1 clusters"):
        stats.bootstrap_estimate([1, 2], clusters=["a"])


def test_redraw_estimate_by_hand():
    # two problems, draws (0, 1) and (1, 1): s² = .5 and 0; SE² = (.5/2) / 4 = .0625; all variance in one: df 1
    found = stats.redraw_estimate({"a": [0, 1], "b": [1, 1]})
    assert found.value == 0.75
    assert found.high - 0.75 == pytest.approx(scipy_stats.t.ppf(0.975, 1) * 0.25)
    assert math.isnan(stats.redraw_estimate({"a": [1]}).low)
    assert stats.redraw_estimate({"a": [1, 1], "b": []}).n_dropped == 1


# --- bootstrap --------------------------------------------------------------------------------------------


def test_bootstrap_means_match_plain_resampling():
    values = np.array([[0.0, 1.0], [1.0, math.nan], [4.0, 3.0]])
    found = stats.bootstrap_means(values, n_resamples=4000, seed=3)
    # column means of every possible resample lie on a known grid; their mean and variance are known
    assert found[:, 0].mean() == pytest.approx(5 / 3, abs=0.06)
    assert found[:, 0].var() == pytest.approx(np.var(values[:, 0]) / 3, rel=0.08)
    assert set(np.round(found[~np.isnan(found[:, 1]), 1], 6)) <= {1.0, 1.666667, 2.0, 2.333333, 3.0}
    assert np.isnan(found[:, 1]).mean() == pytest.approx(1 / 27, abs=0.012)  # only the NaN row drawn
    assert np.array_equal(found, stats.bootstrap_means(values, n_resamples=4000, seed=3), equal_nan=True)


def test_bootstrap_keeps_columns_paired():
    base = np.random.default_rng(0).random(50)
    found = stats.bootstrap_means(np.column_stack([base, base + 1]), n_resamples=200)
    assert np.allclose(found[:, 1] - found[:, 0], 1)


def test_any_statistic_agrees_with_the_weighted_mean():
    values = np.random.default_rng(1).random(40)
    for function in (stats.bootstrap_estimate, stats.bca_estimate):
        fast = function(values)
        slow = function(values, statistic=np.mean, n_resamples=3000)
        listed = function(list(values), statistic=lambda rows: sum(rows) / len(rows), n_resamples=3000)
        assert fast.value == pytest.approx(slow.value) and slow.low == pytest.approx(listed.low)
        assert fast.low == pytest.approx(slow.low, abs=0.01) and fast.high == pytest.approx(slow.high, abs=0.01)


def test_bca_matches_scipy_without_the_expansion(monkeypatch):
    monkeypatch.setattr("opsd_eval.stats_bootstrap._expanded_tails", lambda units, level: (0.025, 0.975))
    values = np.random.default_rng(2).lognormal(0, 1, 40)
    found = stats.bca_estimate(values, n_resamples=40_000)
    reference = scipy_stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=0).confidence_interval
    assert found.low == pytest.approx(reference.low, rel=0.01)
    assert found.high == pytest.approx(reference.high, rel=0.015)


def test_cluster_bootstrap_resamples_clusters():
    values, labels = [1.0] * 10 + [0.0] * 10, ["a"] * 10 + ["b"] * 10
    draws = stats.bootstrap_means(np.array(values), n_resamples=500, clusters=labels)
    assert set(draws[:, 0]) == {0.0, 0.5, 1.0}
    assert stats.bca_estimate(values, clusters=labels).low == 0.0


def test_bca_says_when_it_is_undefined():
    found = stats.bca_estimate([1.0, 1.0, 1.0])
    assert (found.low, found.high) == (1.0, 1.0) and "BCa undefined" in found.method


def test_bootstrap_speed():
    rng = np.random.default_rng(0)
    a, b = rng.random((1000, 20)), rng.random((1000, 20))
    start = time.perf_counter()
    found = stats.bootstrap_means(a - b, n_resamples=10_000)
    assert found.shape == (10_000, 20)
    assert time.perf_counter() - start < 2


# --- two models -------------------------------------------------------------------------------------------


def test_paired_difference_by_hand():
    # differences 1, 0, 1, 2: mean 1, sd sqrt(2/3), SE .408248, df 3
    a, b = ids([1, 1, 2, 3]), ids([0, 1, 1, 1])
    found = stats.paired_difference(a, b)
    assert found.value == 1
    assert found.high - 1 == pytest.approx(3.182446 * 0.408248, rel=1e-5)
    assert found.mde == pytest.approx((3.182446 + 0.978472) * 0.408248, rel=1e-5)
    # nonzero differences 1, 1, 2: |±1±1±2| >= 4 in 2 of 8 sign vectors
    assert found.p_value == 0.25
    assert found.scope == "checkpoints"


def test_paired_standard_error_identity():
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(30)
    found = stats.paired_difference(ids(a), ids(b))
    variance = (a.var(ddof=1) + b.var(ddof=1) - 2 * np.cov(a, b)[0, 1]) / 30
    assert found.high - found.value == pytest.approx(scipy_stats.t.ppf(0.975, 29) * math.sqrt(variance))


def test_paired_difference_names_the_odd_ids():
    with pytest.raises(ValueError, match=r"only in a: 'p2'; only in b: 'x'"):
        stats.paired_difference(ids([1, 2, 3]), {"p0": 1.0, "p1": 1.0, "x": 2.0})
    many = {f"q{i}": 0.0 for i in range(9)}
    with pytest.raises(ValueError, match="and 4 more"):
        stats.paired_difference({}, many)


def test_paired_difference_drops_missing_and_uses_clusters():
    a, b = ids([1, math.nan, 3, 4]), ids([0, 0, 1, 1])
    found = stats.paired_difference(a, b, clusters={"p0": "x", "p2": "x", "p3": None})
    assert (found.value, found.n_problems, found.n_dropped) == (2.0, 3, 1)
    assert found.p_value == 0.5  # two clusters, sums 3 and 3
    assert "2 clusters" in found.method
    empty = stats.paired_difference({}, {})
    assert math.isnan(empty.value) and math.isnan(empty.p_value)


def test_difference_in_differences_by_hand():
    # ID changes 1, 3 (mean 2, SE 1); OOD changes 0, 1, 2 (mean 1, SE sqrt(1/3)): SE = sqrt(4/3)
    found = stats.difference_in_differences(ids([1, 3]), ids([0, 0]), ids([0, 1, 2]), ids([0, 0, 0]))
    df = (4 / 3) ** 2 / (1 / 1 + (1 / 9) / 2)
    assert found.value == 1
    assert found.high - 1 == pytest.approx(scipy_stats.t.ppf(0.975, df) * math.sqrt(4 / 3))
    assert found.p_value == pytest.approx(2 * scipy_stats.t.sf(1 / math.sqrt(4 / 3), df))
    welch = scipy_stats.ttest_ind([1, 3], [0, 1, 2], equal_var=False)
    assert found.p_value == pytest.approx(welch.pvalue)


def test_sign_flip_exact_equals_brute_force():
    rng = np.random.default_rng(4)
    for n in (1, 2, 5, 9):
        d = rng.normal(0.3, 1, n)
        sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=n)]
        assert stats.sign_flip_p(d) == pytest.approx(np.mean(np.array(sums) >= abs(d.sum()) - 1e-12))


def test_sign_flip_edges():
    assert math.isnan(stats.sign_flip_p([]))
    assert stats.sign_flip_p([0, 0]) == 1
    assert stats.sign_flip_p([1, -1]) == 1
    assert stats.sign_flip_p([1.0] * 20) == 2 / 2**20
    assert stats.sign_flip_p([1.0] * 21) == 1 / 10_001  # Monte-Carlo never says 0
    assert stats.sign_flip_p([math.nan, 1.0, 0.0]) == 1
    d = np.random.default_rng(0).normal(0.12, 1, 500)
    close = stats.sign_flip_p(d, n=40_000)
    assert close == pytest.approx(scipy_stats.ttest_1samp(d, 0).pvalue, abs=0.005)
    assert stats.sign_flip_p(d, seed=1) == stats.sign_flip_p(d, seed=1)
    large = np.tile(d, 50)
    assert stats.sign_flip_p(large) == pytest.approx(scipy_stats.ttest_1samp(large, 0).pvalue, abs=1e-6)


# --- corrections, verdicts, power -------------------------------------------------------------------------


def test_holm_and_benjamini_hochberg_by_hand():
    p = [0.01, math.nan, 0.04, 0.03, 0.5]
    # sorted .01 .03 .04 .5: Holm ×4 ×3 ×2 ×1 = .04 .09 .09 (kept monotone) .5
    np.testing.assert_allclose(stats.holm(p), [0.04, math.nan, 0.09, 0.09, 0.5])
    # BH .01·4/1 .03·4/2 .04·4/3 .5: .04, min(.06, .0533), .0533, .5
    np.testing.assert_allclose(stats.benjamini_hochberg(p), [0.04, math.nan, 0.16 / 3, 0.16 / 3, 0.5])
    assert len(stats.holm([])) == 0 and len(stats.benjamini_hochberg([math.nan])) == 1
    assert stats.holm([0.9, 0.9]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_keep_their_order(p):
    for adjusted in (stats.holm(p), stats.benjamini_hochberg(p)):
        assert np.all(adjusted >= np.array(p) - 1e-12) and np.all(adjusted <= 1)
        assert np.all(np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0)


@pytest.mark.parametrize(
    ("low", "high", "better", "margin", "expected"),
    [
        (0.01, 0.05, "higher", 0.02, "improved"),
        (0.01, 0.05, "lower", 0.02, "degraded"),
        (-0.05, -0.01, "higher", 0.02, "degraded"),
        (-0.05, -0.01, "lower", 0.02, "improved"),
        (0.005, 0.015, "higher", 0.02, "preserved"),  # wins over improved
        (-0.02, 0.02, "higher", 0.02, "preserved"),
        (-0.01, 0.03, "higher", 0.02, "undecided"),
        (0.0, 0.05, "higher", 0.02, "undecided"),
        (0.01, 0.05, "neither", 0.02, "undecided"),
        (-0.01, 0.01, "neither", 0.02, "preserved"),
        (0.0, 0.0, "higher", 0.0, "undecided"),
        (-0.01, 0.01, "higher", None, "undecided"),
        (math.nan, math.nan, "higher", 0.02, "undecided"),
    ],
)
def test_verdict(low, high, better, margin, expected):
    assert stats.verdict(difference(low, high), better=better, margin=margin) == expected


def test_verdict_with_adjusted_p_and_bad_arguments():
    clear = difference(0.01, 0.05)
    assert stats.verdict(clear, better="higher", margin=0, p_adjusted=0.2) == "undecided"
    assert stats.verdict(clear, better="higher", margin=0, p_adjusted=0.05) == "improved"
    assert stats.verdict(clear, better="higher", margin=0, p_adjusted=math.nan) == "undecided"
    with pytest.raises(ValueError, match="better='up': allowed are higher, lower, neither"):
        stats.verdict(clear, better="up", margin=0)
    with pytest.raises(ValueError, match=r"margin=-0\.1"):
        stats.verdict(clear, better="higher", margin=-0.1)


def test_minimum_detectable_effect_is_found_with_its_power():
    sd, n = 0.4, 40
    effect = stats.minimum_detectable_effect(sd, n)
    rng = np.random.default_rng(0)
    d = rng.normal(effect, sd, (4000, n))
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / math.sqrt(n))
    assert np.mean(np.abs(t) > scipy_stats.t.ppf(0.975, n - 1)) == pytest.approx(0.8, abs=0.025)
    assert stats.power_of(effect, sd, n) == pytest.approx(0.8, abs=0.01)
    assert math.isnan(stats.minimum_detectable_effect(sd, 1)) and math.isnan(stats.power_of(0.1, sd, 1))
    assert stats.power_of(0.0, sd, n) == pytest.approx(0.05, abs=0.01)


def test_problems_needed_by_hand():
    # (1.959964 + .841621)² = 7.848880; variance .04 + .16/8 + .16/8 = .08; / .03² = 697.68
    assert stats.problems_needed(0.03, problem_variance=0.04, draw_variance=(0.16, 0.16), draws=(8, 8)) == 698
    with pytest.raises(ValueError, match="effect=0"):
        stats.problems_needed(0, problem_variance=1)


# --- variance split ---------------------------------------------------------------------------------------


def simulated_scores(rng, sizes, sds):
    (n_seeds, n_problems, k), (seed_sd, problem_sd, both_sd, draw_sd) = sizes, sds
    problem = rng.normal(0, problem_sd, n_problems)
    return {
        s: {
            f"p{i}": shift + problem[i] + rng.normal(0, both_sd) + rng.normal(0, draw_sd, k)
            for i in range(n_problems)
        }
        for s, shift in enumerate(rng.normal(0, seed_sd, n_seeds))
    }


def test_variance_split_finds_the_components():
    found = stats.variance_split(simulated_scores(np.random.default_rng(0), (60, 60, 6), (0.5, 1.0, 0.3, 2.0)))
    assert found.seeds == pytest.approx(0.25, rel=0.35)
    assert found.problems == pytest.approx(1.0, rel=0.35)
    assert found.interaction == pytest.approx(0.09, abs=0.05)
    assert found.draws == pytest.approx(4.0, rel=0.05)
    total = found.seeds_part + found.problems_part + found.draws_part
    expected = 0.25 / 60 + 1 / 60 + 0.09 / 3600 + 4 / (3600 * 6)
    assert total == pytest.approx(expected, rel=0.35)
    assert found.advice == "problems" and "problems" in str(found)


def test_variance_split_advice():
    rng = np.random.default_rng(1)
    assert stats.variance_split(simulated_scores(rng, (3, 50, 8), (1.0, 0.1, 0.0, 0.1))).advice == "seeds"
    assert stats.variance_split(simulated_scores(rng, (20, 50, 2), (0.0, 0.05, 0.0, 3.0))).advice == "samples"
    one = stats.variance_split(simulated_scores(rng, (1, 50, 1), (0.0, 1.0, 0.0, 0.0)))
    assert one.advice == "problems (seeds and samples unknown: only one each)"
    assert math.isnan(one.seeds) and math.isnan(one.draws)
    assert stats.variance_split({}).advice.startswith("problems") and stats.variance_split({0: {}}).n_problems == 0


# --- ratios -----------------------------------------------------------------------------------------------


def test_recovered_fraction_equals_the_closed_fieller_form():
    rng = np.random.default_rng(0)
    base = rng.random(40)
    standard, purified = base - 0.4 + rng.normal(0, 0.2, 40), base - 0.1 + rng.normal(0, 0.2, 40)
    found = stats.recovered_fraction(ids(base), ids(standard), ids(purified))
    top, below = purified - standard, base - standard
    a, b, t2 = top.mean(), below.mean(), scipy_stats.t.ppf(0.975, 39) ** 2
    cov = np.cov(top, below) / 40
    roots = np.roots([b * b - t2 * cov[1, 1], -2 * (a * b - t2 * cov[0, 1]), a * a - t2 * cov[0, 0]])
    assert found.value == pytest.approx(a / b)
    assert (found.low, found.high) == (pytest.approx(min(roots)), pytest.approx(max(roots)))


def test_recovered_fraction_is_undefined_without_a_loss():
    rng = np.random.default_rng(0)
    base, standard = rng.random(30), rng.random(30)
    found = stats.recovered_fraction(ids(base), ids(standard), ids(base))
    assert math.isnan(found.value) and math.isnan(found.low) and found.method.startswith("undefined")
    assert math.isnan(stats.recovered_fraction({}, {}, {}).value)
    with pytest.raises(ValueError, match="only in purified: 'p1'"):
        stats.recovered_fraction(ids([1]), ids([1]), ids([1, 2]))


def test_ratio_edges():
    everything = stats.recovered_fraction(ids([0.8, 0.9, 1.0]), ids([0.1, 0.3, 0.2]), ids([0.8, 0.9, 1.0]))
    assert (everything.value, everything.low, everything.high) == (1.0, 1.0, 1.0)
    half = stats.retention(ids([0.4, 0.3, 0.5, math.nan]), ids([0.8, 0.6, 1.0, 1.0]))
    assert (half.value, half.n_problems, half.n_dropped) == (pytest.approx(0.5), 3, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.2, 5))
def test_ratios_do_not_depend_on_the_unit(seed, unit):
    rng = np.random.default_rng(seed)
    base, standard, purified = rng.random(20) + 1, rng.random(20), rng.random(20)
    plain = stats.recovered_fraction(ids(base), ids(standard), ids(purified))
    scaled = stats.recovered_fraction(ids(base * unit), ids(standard * unit), ids(purified * unit))
    assert scaled.low == pytest.approx(plain.low, abs=1e-6) and scaled.high == pytest.approx(plain.high, abs=1e-6)


def test_equal_differences_on_few_problems_are_not_called_preserved():
    few = stats.paired_difference({f"p{i}": 1.0 for i in range(4)}, {f"p{i}": 1.0 for i in range(4)})
    many = stats.paired_difference({f"p{i}": 1.0 for i in range(100)}, {f"p{i}": 1.0 for i in range(100)})
    assert stats.verdict(few, better="higher", margin=0.05) == "undecided"  # 1 - 0.05^(1/4) = 0.53 could still differ
    assert stats.verdict(many, better="higher", margin=0.05) == "preserved"  # 1 - 0.05^(1/100) = 0.030
