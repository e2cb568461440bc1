"""Step metrics against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from opsd_eval.metrics import steps
from opsd_eval.records import Problem, Sample

PROBLEM = Problem(problem_id="p", question="Start with 17, add 5, take away 4.", answer="18")
RIGHT = "17 + 5 = 22 ; 22 - 4 = 18 ; \\boxed{18}"
WRONG = "17 + 5 = 23 ; 23 - 4 = 19 ; \\boxed{19}"
MENDED = "17 + 5 = 21 wait 17 + 5 = 22 ; 22 - 4 = 18 ; \\boxed{18}"
ROTE = "maybe 18 so \\boxed{18}"


def draws(*texts):
    return [Sample(problem_id="p", draw=i, text=text) for i, text in enumerate(texts)]


def test_validity_pools_equations_and_leaves_recovered_ones_out():
    # RIGHT 2 valid; WRONG 1 invalid, 1 valid; MENDED 1 recovered, 2 valid
    assert steps.step_validity(PROBLEM, draws(RIGHT, WRONG, MENDED, ROTE)) == 5 / 6


def test_coverage_is_the_share_of_draws_with_a_checked_equation():
    assert steps.step_coverage(PROBLEM, draws(RIGHT, WRONG, MENDED, ROTE)) == 0.75
    assert steps.step_coverage(PROBLEM, draws(ROTE)) == 0.0
    assert math.isnan(steps.step_coverage(PROBLEM, draws(None)))


def test_first_error_position_averages_over_draws_with_an_error():
    late = "1 + 1 = 2\n2 + 2 = 5"  # the sign stands at 16 of 19 characters
    assert steps.first_error_position(PROBLEM, draws(late, RIGHT)) == 16 / 19
    assert math.isnan(steps.first_error_position(PROBLEM, draws(RIGHT, MENDED)))


def test_recovered_error_rate():
    assert steps.recovered_error_rate(PROBLEM, draws(RIGHT, WRONG, MENDED)) == 0.5
    assert math.isnan(steps.recovered_error_rate(PROBLEM, draws(RIGHT)))


def test_a_loop_counts_up_to_its_onset():
    looping = "17 + 5 = 22 ; " + "2 + 2 = 5 ; " * 60
    counted = [link.verdict for link in steps.links_of(PROBLEM, looping)]
    assert counted[0] == "valid"
    assert counted.count("invalid") <= 2


def test_modulus_of_a_problem():
    modular = Problem(problem_id="m", question="", metadata={"modulus": 7})
    assert steps.step_validity(modular, draws("5 + 4 = 2")) == 1.0
    assert steps.step_validity(PROBLEM, draws("5 + 4 = 2")) == 0.0


@pytest.mark.parametrize(
    ("text", "closed", "derived"),
    [
        (RIGHT, 1.0, 1.0),
        (ROTE, 1.0, 0.0),
        ("\\boxed{18}", 0.0, 0.0),
        ("17 + 5 = 22, so \\boxed{18}", 0.0, 0.0),
        ("x = 18. So \\boxed{18}", 1.0, 1.0),
        ("That is 36/2 = 18.0, hence $\\boxed{18}$", 1.0, 1.0),
        ("We get $\\frac{1}{2} \\cdot 3 = \\frac{3}{2}$: $\\boxed{\\frac{3}{2}}$", 1.0, 1.0),
        ("The root is $2\\sqrt{3}$. \\boxed{2 \\sqrt{3}}", 1.0, math.nan),
        ("\\boxed{2\\sqrt{3}}", 0.0, math.nan),
        ("17 + 5 = 22 so \\boxed{22} or \\boxed{2", 1.0, 1.0),
        ("no box, 18", math.nan, math.nan),
    ],
)
def test_closure(text, closed, derived):
    assert steps.closure(PROBLEM, draws(text)) == pytest.approx(closed, nan_ok=True)
    assert steps.closure_derived(PROBLEM, draws(text)) == pytest.approx(derived, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let x = 5. Since x = 6 we stop.", 0.0),
        ("x = 5, y = 2, later x = 6.", 0.5),
        ("x = 5. Wait, that is wrong. x = 6.", 1.0),
        ("x = 3 or x = -3", 1.0),
        ("x = 10/3, so x = 3.33", 1.0),
        ("A = (3 + 4) = 7 and B = 2. Thus A = 7.", 1.0),
        ("A = (3 + 4) = 8 and B = 2. Thus A = 9.", 0.5),
        ("2x = 8 gives x = 4", 1.0),
        ("3 + 4 = 7", math.nan),
        ("f(x) = 3 and f(y) = 4", math.nan),
    ],
)
def test_binding_consistency(text, expected):
    assert steps.binding_consistency(PROBLEM, draws(text)) == pytest.approx(expected, nan_ok=True)


def test_intermediate_values_and_operation_path():
    assert steps.intermediate_values(RIGHT) == {22, 18}
    assert steps.operation_path(MENDED) == ("+=21", "+=22", "-=18")
    assert steps.intermediate_values("nothing to see") == frozenset()


def test_agreement_by_hand():
    # values without 17, 5, 4 and each draw's own answer: {22}, {23}, {21, 22}, none
    one, two = math.log2(22), math.log2(23)  # weights of 21 and 22
    third = (two * (1 / 3)) / (one + two)
    samples = draws(RIGHT, WRONG, MENDED, ROTE)
    agreement = steps.sample_agreement(PROBLEM, samples)
    assert agreement[:3] == pytest.approx([1 / 3, 0.0, third])
    assert math.isnan(agreement[3])
    assert steps.cross_sample_agreement(PROBLEM, samples) == pytest.approx((1 / 3 + third) / 3)


def test_agreement_needs_four_draws_and_is_one_for_identical_ones():
    assert math.isnan(steps.cross_sample_agreement(PROBLEM, draws(RIGHT, RIGHT, RIGHT)))
    assert math.isnan(steps.cross_sample_agreement(PROBLEM, draws(RIGHT, RIGHT, RIGHT, None)))
    assert steps.cross_sample_agreement(PROBLEM, draws(RIGHT, RIGHT, RIGHT, RIGHT)) == 1.0


def test_weight_grows_with_the_digits_of_a_value():
    assert steps.weight(0) == 0.0
    assert steps.weight(1) == 1.0
    assert steps.weight(7) < steps.weight(100) < steps.weight(1001)


@pytest.mark.parametrize("metric", steps.METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_nan_on_nothing_and_blind_to_order(metric):
    assert math.isnan(metric(PROBLEM, []))
    assert math.isnan(metric.compute(PROBLEM, draws(None, None, None, None)))
    samples = draws(RIGHT, WRONG, MENDED, ROTE, "", "x = 5, later x = 6")
    forward, backward = metric(PROBLEM, samples), metric(PROBLEM, samples[::-1])
    assert isinstance(forward, float)
    assert forward == pytest.approx(backward, nan_ok=True)
