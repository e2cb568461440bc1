"""The accuracy family against brute-force enumeration of every subset, and by hand."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest

from opsd_eval.metrics import FAMILIES, PAIR_METRICS, SET_PAIR_METRICS, default_metrics, expand_metrics, find_metric
from opsd_eval.metrics.accuracy import (
    g_pass_at_k_value,
    majority_curve,
    pass_at_k_value,
    pass_hat_k_value,
    powers,
    sampled_majority,
)
from opsd_eval.records import Problem, Sample

PROBLEM = Problem("p", "How many?", "5")
COUNTS = [(n, c) for n in range(1, 9) for c in range(n + 1)]


def draws(correct, answers=None):
    answers = answers or [None] * len(correct)
    return [
        Sample("p", i, "t", correct=c, correct_relaxed=c, answer_strict="5" if c else a)
        for i, (c, a) in enumerate(zip(correct, answers, strict=True))
    ]


def subsets(items, k):
    return list(itertools.combinations(items, k))


@pytest.mark.parametrize(("n", "c"), COUNTS)
def test_pass_families_equal_enumeration(n, c):
    marks = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        chosen = subsets(marks, k)
        assert pass_at_k_value(n, c, k) == pytest.approx(sum(any(s) for s in chosen) / len(chosen), abs=1e-12)
        assert pass_hat_k_value(n, c, k) == pytest.approx(sum(all(s) for s in chosen) / len(chosen), abs=1e-12)
        half = sum(sum(s) >= max(1, math.ceil(k / 2)) for s in chosen) / len(chosen)
        assert g_pass_at_k_value(n, c, k, 0.5) == pytest.approx(half, abs=1e-12)
        assert g_pass_at_k_value(n, c, k, 1.0) == pass_hat_k_value(n, c, k)
        assert g_pass_at_k_value(n, c, k, 1 / k) == pytest.approx(pass_at_k_value(n, c, k), abs=1e-12)
    assert pass_at_k_value(n, c, 1) == pytest.approx(c / n)
    assert math.isnan(pass_at_k_value(n, c, n + 1)) and math.isnan(pass_hat_k_value(n, c, n + 1))


def enumerate_majority(right, wrong, none, k):
    votes = ["R"] * right + [f"w{i}" for i, count in enumerate(wrong) for _ in range(count)] + [None] * none
    total = 0.0
    chosen = subsets(votes, k)
    for subset in chosen:
        counts = Counter(v for v in subset if v is not None)
        if counts:
            top = max(counts.values())
            tied = [answer for answer, count in counts.items() if count == top]
            total += ("R" in tied) / len(tied)
    return total / len(chosen)


VOTES = [
    (2, (1,), 0), (1, (1, 1), 1), (3, (3,), 2), (2, (2, 2), 2), (0, (3, 2), 1), (4, (), 4), (1, (4, 2, 1), 0),
    (3, (2, 1, 1), 1), (2, (1, 1, 1, 1), 2), (0, (), 3), (8, (), 0),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "none"), VOTES)
def test_majority_equals_enumeration(right, wrong, none):
    curve = majority_curve(right, wrong, none)
    for k in range(1, right + sum(wrong) + none + 1):
        assert curve[k - 1] == pytest.approx(enumerate_majority(right, wrong, none, k), abs=1e-12)


def test_majority_by_hand():
    # R R w: pairs {R,R} -> 1, {R,w} -> 1/2 twice: (1 + 1/2 + 1/2) / 3
    assert majority_curve(2, (1,), 0) == pytest.approx((2 / 3, 2 / 3, 1.0))
    # a draw without an answer does not vote: {R, none} is won by R
    assert majority_curve(1, (), 1) == pytest.approx((0.5, 1.0))


def test_majority_of_many_draws_is_quick_and_a_probability():
    curve = majority_curve(90, (60, 20, *[1] * 50), 36)
    assert len(curve) == 256 and all(0 <= value <= 1 for value in curve) and curve[-1] == pytest.approx(1.0)
    assert curve[0] == pytest.approx(90 / 256)


@pytest.mark.parametrize(("right", "wrong", "none"), [(120, (100, 40), 40), (60, (60,) * 3, 60), (0, (300,), 0), (1, (1,) * 299, 0)])
def test_majority_by_sampled_subsets_is_the_exact_one_within_its_error(right, wrong, none):
    curve = majority_curve(right, wrong, none)
    for k in (1, 2, 16, 150, 300):
        assert sampled_majority(right, wrong, none, k) == pytest.approx(curve[k - 1], abs=0.025), k  # 3 standard errors
    assert sampled_majority(right, wrong, none, 300) == pytest.approx(curve[-1])
    assert sampled_majority(right, wrong, none, 1) == curve[0]


def test_thousands_of_draws_take_seconds():
    """Exact votes take the cube of the draws: seconds at 1,000, hours at 4,000."""
    samples = draws([True, False, False, True] * 1000, [None, "1", "2", None] * 1000)
    started = time.process_time()
    values = {metric.name: metric(PROBLEM, samples) for metric in default_metrics(len(samples))}
    assert time.process_time() - started < 30
    assert values["maj@1"] == 0.5 and values["maj@4000"] == 1.0 and 0.5 < values["maj@4"] < 0.7


def test_votes_go_by_canonical_answer_and_ungraded_draws_are_left_out():
    samples = draws([True, False, False, False], [None, "0.5", "1/2", "3"])
    assert find_metric("maj@4").compute(PROBLEM, samples) == 0.0  # 1/2 has two votes
    samples = draws([True, None, None, False], [None, "1", "1", "3"])
    assert find_metric("maj@2").compute(PROBLEM, samples) == 0.5
    assert math.isnan(find_metric("maj@3")(PROBLEM, samples))
    assert find_metric("self_consistency")(PROBLEM, samples) == 0.5


def test_levels_by_hand():
    samples = draws([True, True, False, False, None])
    values = {m.name: m(PROBLEM, samples) for m in expand_metrics([f.name for f in FAMILIES.values()], 4)}
    assert values["avg@4"] == 0.5 == values["pass@1"] == values["pass^1"] == values["maj@1"]
    assert values["pass@2"] == pytest.approx(1 - 1 / 6) and values["pass^2"] == pytest.approx(1 / 6)
    assert values["pass@4"] == 1 and values["pass_gap@4"] == 0.5
    assert values["g-pass@4_0.5"] == 1.0 and values["g-pass@2_0.5"] == pytest.approx(5 / 6)
    assert "mg-pass@1" not in values and values["mg-pass@2"] == values["pass^2"] and values["mg-pass@4"] == 0.0


def test_other_thresholds_of_g_pass_and_their_mean():
    samples = draws([True, True, True, False])
    values = {name: find_metric(name)(PROBLEM, samples) for name in ("g-pass@4_0.75", "g-pass@4_1", "g-pass@2_1.0")}
    assert list(values.values()) == [1.0, 0.0, 0.5]  # 3 of 4 right; not 4 of 4; C(3,2)/C(4,2) pairs
    assert find_metric("mg-pass@4")(PROBLEM, samples) == 0.5  # (2/4) · (G at 3/4 + G at 1)
    assert [m.name for m in expand_metrics(["g-pass@k_0.25"], 4)] == [f"g-pass@{k}_0.25" for k in (1, 2, 4)]
    with pytest.raises(ValueError, match="unknown metric 'g-pass@4_2'"):
        find_metric("g-pass@4_2")
    with pytest.raises(ValueError, match="opsd-eval compare BASE OTHER --metric support_loss"):
        find_metric("support_loss")


def test_chance_levels():
    problem = Problem("p", "Yes or no?", "yes", metadata={"answer_space": 4})
    assert find_metric("avg@8").chance(problem, 8) == 0.25
    assert find_metric("pass@2").chance(problem, 8) == pytest.approx(1 - 0.75**2)
    assert find_metric("pass^2").chance(problem, 8) == pytest.approx(1 / 16)
    assert find_metric("g-pass@2_0.5").chance(problem, 8) == pytest.approx(1 - 0.75**2)
    assert math.isnan(find_metric("avg@8").chance(PROBLEM, 8))


def test_family_sizes_and_names():
    assert powers(8) == [1, 2, 4, 8] and powers(6) == [1, 2, 4, 6] and powers(1) == [1] and powers(0) == []
    assert [m.name for m in expand_metrics(["pass@k", "avg@k"], 6)] == ["pass@1", "pass@2", "pass@4", "pass@6", "avg@6"]
    with pytest.raises(ValueError, match="pass@k"):
        expand_metrics(["pas@k"], 4)


# --- two models -------------------------------------------------------------------------------------------


def test_support_loss_by_hand():
    metric = PAIR_METRICS["support_loss"]
    assert metric(PROBLEM, draws([True, False]), draws([False, False])) == 1.0
    assert metric(PROBLEM, draws([True, False]), draws([False, True])) == 0.0
    # unequal n: base's pass@1 = 1/2, the other never solves its one draw
    assert metric(PROBLEM, draws([True, False]), draws([False])) == 0.5
    # one right draw among four, equal models: on base's side with probability 1/2
    assert metric.null(PROBLEM, draws([True, False]), draws([False, False])) == 0.5
    assert math.isnan(metric(PROBLEM, draws([None]), draws([True])))


def test_hard_tail_by_hand():
    metric = PAIR_METRICS["hard_tail_retention"]
    # halves of base (even, odd draws): rates 1/4 (hard) and 1/2 (not); scored on the second: 0.75 - 0.5
    base = draws([True, True, False, True, False, False, False, False])
    assert metric(PROBLEM, base, draws([True, True, True, False])) == pytest.approx(0.25)
    assert math.isnan(metric(PROBLEM, draws([True] * 8), draws([True] * 4)))


def test_hard_tail_finds_no_loss_between_equal_models():
    rng = np.random.default_rng(0)
    values = []
    for rate in rng.beta(0.6, 0.9, size=4000):
        base, other = draws(list(rng.random(8) < rate)), draws(list(rng.random(8) < rate))
        values.append(PAIR_METRICS["hard_tail_retention"](PROBLEM, base, other))
    kept = np.array([v for v in values if v == v])
    assert abs(kept.mean()) < 3 * kept.std() / math.sqrt(len(kept))


def test_crossover_by_hand():
    crossover = SET_PAIR_METRICS["crossover_k"].compute
    # base solves both problems sometimes; the other solves one always and the other never
    counts = np.array([(4, 2, 4, 4), (4, 2, 4, 0)])
    # pass@1: 0.5 each (a tie is not ahead); pass@2: 5/6 against 1/2
    assert crossover(counts) == 2.0
    assert crossover(np.array([(4, 4, 4, 0)])) == 1.0
    assert crossover(np.array([(4, 0, 4, 4)])) == math.inf
    assert math.isnan(crossover(np.empty((0, 4))))
