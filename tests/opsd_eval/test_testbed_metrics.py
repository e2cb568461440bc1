"""Mechanism metrics against completions read by hand."""

import math

import pytest

from opsd_eval.metrics.testbed import METRICS
from opsd_eval.records import Problem, Sample
from opsd_eval.testbed import chains, worlds
from opsd_eval.testbed.reading import mechanism, steps_of, words_of

BY_NAME = {m.name: m for m in METRICS}
CHAIN = chains.Chain(17, (("+", 5), ("*", 2), ("-", 3)))
HUNCH, SLIPS = (worlds.as_problem(w, "id", CHAIN) for w in ("hunch_r10", "slips"))
SEARCH = worlds.as_problem("search", "id", chains.Search((4, 7, 9), (("*", 3), ("+", 5)), 7))
STEPS = "17 + 5 = 22 ; 22 * 2 = 44 ; 44 - 3 = 41 ;"


def value(name, problem, *texts, correct=()):
    marks = list(correct) or [None] * len(texts)
    samples = [Sample(problem.problem_id, i, t, correct=c) for i, (t, c) in enumerate(zip(texts, marks, strict=True))]
    return BY_NAME[name](problem, samples)


def test_hunch_by_hand():
    agree = f"maybe 41 check {STEPS} was 41 ok \\boxed{{41}}"
    noticed = f"maybe 7 check {STEPS} was 7 wait \\boxed{{41}}"
    missed = f"maybe 7 check {STEPS} was 7 ok \\boxed{{7}}"
    skipped = "maybe 41 so \\boxed{41}"
    assert value("p_check", HUNCH, agree, noticed, missed, skipped) == 0.75
    assert value("p_wait_given_mismatch", HUNCH, agree, noticed, missed, skipped) == 0.5
    assert math.isnan(value("p_wait_given_mismatch", HUNCH, agree, skipped))
    assert value("accuracy_given_check", HUNCH, agree, missed, skipped, correct=(True, False, True)) == 0.5
    assert math.isnan(value("accuracy_given_check", HUNCH, agree, noticed))
    assert math.isnan(value("accuracy_given_check", HUNCH, skipped, correct=(True,)))
    assert value("step_accuracy", HUNCH, agree, "maybe 1 check 17 + 5 = 23 ; \\boxed{23}") == 0.75
    assert math.isnan(value("step_accuracy", HUNCH, skipped))


def test_slips_by_hand():
    text = "17 + 5 = 32 ; check 17 + 5 = 22 ; was 32 wait ; 22 * 2 = 45 ; check 22 * 2 = 44 ; was 45 ok ; 45 - 3 = 42 ;"
    read = mechanism(SLIPS, f"{text} \\boxed{{42}}")
    assert (read.steps, read.right_steps) == (5, 3)
    assert (read.attempts, read.slips) == (3, 2)
    assert (read.mismatches, read.waits) == (2, 1)
    assert read.checked
    assert value("slip_rate", SLIPS, text, STEPS) == pytest.approx(2 / 6)
    assert value("p_check", SLIPS, text, STEPS) == 0.5
    late = f"17 + 5 = 22 ; check 17 + 5 = 22 ; was 22 ok ; 22 * 2 = 34 ; 34 - 3 = 31 ; check all {STEPS} was 31 wait"
    read = mechanism(SLIPS, f"{late} \\boxed{{41}}")
    assert (read.mismatches, read.waits, read.slips) == (1, 1, 1)
    assert mechanism(SLIPS, "17 + 5 = 32 ; 32 * 2 = 64 ; wait").mismatches == 0


def test_search_by_hand():
    miss, hit = "try 4 : 4 * 3 = 12 ; 12 + 5 = 17 ; need 26", "try 7 : 7 * 3 = 21 ; 21 + 5 = 26 ; need 26"
    found = f"{miss} no wait {hit} yes \\boxed{{7}}"
    fooled = f"{miss} yes \\boxed{{4}}"
    blurted = f"{miss} no wait try 7 yes \\boxed{{7}}"
    assert value("p_check", SEARCH, found, fooled, blurted) == pytest.approx(1 / 3)
    assert value("p_wait_given_mismatch", SEARCH, found, fooled) == 0.5
    assert mechanism(SEARCH, found).mismatches == 1


@pytest.mark.parametrize("text", [
    None, "", "maybe", "maybe 99999999999999999999 check", "try", "try try \\boxed{", "\\boxed{}", "= = = + 1",
    "1 + 1 = 2 " * 3000, "maybe ² check 1 + ² = 3", "maybe " + "9" * 5000 + " check 1 + 1 = 2 ;", "\ud800 check é",
])  # fmt: skip
def test_any_text_is_read_in_bounds(text):
    for problem in (HUNCH, SLIPS, SEARCH):
        read = mechanism(problem, text)
        assert 0 <= read.right_steps <= read.steps <= 4096
        assert 0 <= read.waits <= read.mismatches


def test_long_numbers_are_no_steps():
    assert [s.left for s in steps_of(words_of("1234567 + 1 = 1234568 ; 2 + 2 = 4"))] == [2]


def test_metrics_do_not_apply_elsewhere():
    other = Problem("x/1", "2 + 2 ?", "4", benchmark="reasoning_gym.chain_sum")
    for metric in METRICS:
        assert not metric.applies(other)
        assert math.isnan(metric(other, [Sample("x/1", 0, "2 + 2 = 4", correct=True)]))
        assert math.isnan(metric(HUNCH, []))
