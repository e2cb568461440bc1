"""Answers, grading and outcomes: what counts as which, what it costs, and what survives an interruption."""

from __future__ import annotations

import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd_eval import grading
from opsd_eval.answers import canonical_answer, compare_exactly, extract_boxed, extract_relaxed, extract_strict
from opsd_eval.grading import answers_equal, grade_sample, grade_set, grade_text
from opsd_eval.grading_worker import AlgebraJudge, is_too_large
from opsd_eval.locks import locked
from opsd_eval.metrics.loops import loop_onset, tail_period
from opsd_eval.records import Problem, Sample, append_samples, new_run_record, read_jsonl, write_problems, write_run

BOXES = [
    (r"so \boxed{42}.", "42"),
    (r"\boxed{5}" + "\n\nActually, " + r"\boxed{6}", "6"),  # the correction, not the set {5, 6}
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{ x^{2} + 1 }", "x^{2} + 1"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{5} and then \boxed{6", "5"),  # the last balanced one
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces do not nest
    (r"\boxed {8}", "8"),
    (r"\boxed{9} as asked, in \boxed{}", "9"),
    (r"a { b \boxed{3}", "3"),  # an open brace in prose
    (r"\boxed{6", None),
    (r"\boxed{}", None),
    (r"\fbox{4}", None),
    (r"\boxed 5", None),
    ("", None),
    ("no answer", None),
]


@pytest.mark.parametrize(("text", "expected"), BOXES)
def test_last_balanced_box(text, expected):
    assert extract_boxed(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    (r"\boxed{6", "6"),
    (r"so $\boxed{12$", "12"),
    ("The answer is 204.", "204"),
    ("Thus the final answer is: $\\frac{3}{4}$, as wanted", "\\frac{3}{4}"),
    ("**Answer:** 17 apples", "17"),
    ("work\n#### 1,234", "1,234"),
    ("The answer is (B).", "B"),
    ("The answer is 3 + 4 = 7.", "7"),
    ("所以答案是 35。", "35"),
    ("we get 3-5 and then 12", "12"),
    ("it is -5", "-5"),
    ("3-5", "5"),
    (r"hence \frac{3}{4}", r"\frac{3}{4}"),
    ("The final answer is\n\n$$\n42\n$$", "42"),
    ("The final answer is:\n\n\\[\n\\frac{3}{4}\n\\]", "\\frac{3}{4}"),
    ("Final Answer: The final answer is $42$. I hope it is correct.", "42"),
    ("The answer is $50 because he pays $5 ten times", "50"),
    ("The answer is $5 or $7", "5"),
    ("The answer is (3, 4).", "(3, 4)"),
    ("The answer is [0,1)", "[0,1)"),
    ("The answer is 12:30", "12:30"),
    ("The answer is 2^10.", "2^10"),
    ("nothing here", None),
    ("   ", None),
])  # fmt: skip
def test_relaxed_fallbacks(text, expected):
    assert extract_relaxed(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("so 3 * 4 = 12\n#### 1,234", "1,234"), ("x\n#### -5.5\n ", "-5.5"), ("#### Step 4\nmore", None),
    (r"\boxed{7}" + "\n#### 8", "7"), ("a #### 5", None), ("#### 5\nand more", None),
])  # fmt: skip
def test_strict_accepts_the_last_line_of_gsm8k(text, expected):
    assert extract_strict(text) == expected


def test_strict_answer_wins_over_later_numbers():
    assert extract_relaxed(r"\boxed{5} (checked 10 times)") == "5"


EXACT = [
    ("5", "5", True), ("5", "05", True), ("5", "+5", True), ("5", "5.0", True), ("5", "6", False),
    ("1000", "1,000", True), ("1000", "1{,}000", True), ("1000", r"1\,000", True),
    ("1/2", "0.5", True), ("1/2", r"\frac{1}{2}", True), ("1/2", r"\dfrac12", True), ("-1/2", r"-\frac{1}{2}", True),
    ("1/3", "0.333333", True), ("1/3", "0.3333", False), ("3", "3.0000001", False),
    ("0.0000001", "0.0000002", False),  # an algebra system that rounds to six places calls these equal
    ("5", "$5$", True), ("5", r"\text{5}", True), ("73", "**73**", True), ("90", r"90^\circ", True),
    ("listen", "silent", False),  # equal as products of letters
    ("Evelyn", "evelyn", True), ("B", "(B)", True), ("A", "B", False), ("5", "five", False),
    ("12:00", "1:00", False), ("5", "", False), ("5", "\u0665", True), ("5", "\uff15", True), ("-5", "\u22125", True),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "candidate", "equal"), EXACT)
def test_exact_comparison_decides_without_algebra(gold, candidate, equal):
    assert compare_exactly(gold, candidate) is equal


@pytest.mark.parametrize(("gold", "candidate", "equal"), [
    ("x^2+1", "1+x^2", True), (r"\sqrt{8}", r"2\sqrt{2}", True), ("10^5", "100000", True),
    ("5", "x=5", True), ("5", r"5\text{ cm}", True), (r"\frac{\pi}{4}", "0.25", False), ("x+1", "x+2", False),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", True),
    ("n=2,3,4", "n=1,2,3", False), ("1488", "495 + 496 + 497 = 1488", True), (r"1800 \, \text{grams}", "1800", True),
    (r"1800 \, \text{grams}", "1.8", False), (r"\sqrt{2}, -\sqrt{2}", r"\pm \sqrt{2}", True), ("104", r"\text{sums to 104}", False),
    (r"\left(\frac{4}{3},\frac{7}{2}\right)", "(4/3, 3.5)", True), (r"\text{C}", r"\text{B) 368}", False), ("[0,1)", "[0,1]", False),
    (r"\frac{1}{m} + \frac{1}{n} = 3", "3", False), ("2033136", r"\frac{2017 \cdot 2016}{2}", True),
    (r"\frac{b+c}{a}", r"\frac{AE}{ED} = \frac{b + c}{a}", True), (r"\{1,2\}", r"\{2,1\}", True), (r"10\%", "10", True),
    (r"x^2y^2", r"y^2x^2", True), (r"e^{x^2}", r"e^{2x}", False),
])  # fmt: skip
def test_algebra(gold, candidate, equal):
    assert answers_equal(gold, candidate) is equal


@pytest.mark.parametrize(("a", "b", "same"), [
    ("0.50", r"\frac{1}{2}", True), ("1/2", "2/4", True), (" 7 ", "7.", True), ("Yes", "yes", True),
    ("x", "X", True), ("1", "2", False),
])  # fmt: skip
def test_canonical_answers_vote_together(a, b, same):
    assert (canonical_answer(a) == canonical_answer(b)) is same


@pytest.mark.parametrize("answer", ["9^9^9^9", "9^{9^{9^9}}", "10^{100000}", "9" * 200, "(" * 40 + "1" + ")" * 40,
                                    "100000!", "x" * 600])  # fmt: skip
def test_monstrous_answers_are_refused_before_parsing(answer):
    assert is_too_large(answer)
    started = time.monotonic()
    assert answers_equal("5", answer) is False
    assert time.monotonic() - started < 1


def test_ordinary_answers_are_not_refused():
    for answer in (r"\frac{-b+\sqrt{b^2-4ac}}{2a}", "2^{2^{10}}", r"x^2y^2z^2", r"\left(\frac{1}{2},3\right)", "(n+1)!"):
        assert is_too_large(answer) is None


def test_a_hanging_comparison_is_killed_and_the_next_one_answered():
    judge = AlgebraJudge(seconds=0.5)
    try:
        assert judge.equal("x", "x") is True
        started = time.monotonic()
        assert judge.equal("5", "(10^8)!") is None  # would compute a hundred million factors
        assert time.monotonic() - started < 5
        assert judge.given_up == 1
        assert judge.equal(r"\sqrt{8}", r"2\sqrt{2}") is True
        assert judge.equal("2", "\ud800") is not True
    finally:
        judge.close()


def graded(text, *, gold="5", finish="stop", question="How many apples are there in the box and in the bag?"):
    problem = Problem("p", question, gold)
    return grade_sample(problem, Sample("p", 0, text, finish_reason=finish))


LOOP = "We check that. " + "So it is not the same again and again. " * 60
CHINESE = "我们首先计算这个数的值，然后再检查一下结果是不是正确的，所以最后得到的答案"


@pytest.mark.parametrize(("text", "finish", "outcome"), [
    (r"\boxed{5}", "stop", "right"),
    (r"\boxed{5} " + LOOP, "length", "right"),  # right if and only if strictly correct
    (LOOP, "length", "loop"),
    (LOOP, "stop", "loop"),
    ("We count the apples and", "length", "truncated"),
    (CHINESE + r" \boxed{6}", "length", "truncated"),
    (CHINESE + r" \boxed{6}", "stop", "off_language"),
    ("The answer is 5.", "stop", "no_answer"),
    ("", "stop", "no_answer"),
    (" \n ", "stop", "no_answer"),
    (r"We count the apples in the box. \boxed{6}", "stop", "wrong"),
])  # fmt: skip
def test_outcome_is_the_first_that_applies(text, finish, outcome):
    assert graded(text, finish=finish).outcome == outcome


def test_relaxed_credit_does_not_change_the_outcome():
    sample = graded("The answer is 5.")
    assert (sample.correct, sample.correct_relaxed, sample.answer_strict) == (False, True, None)


def test_without_gold_or_text_nothing_is_judged():
    assert graded(r"\boxed{5}", gold=None).correct is None
    assert graded(r"\boxed{5}", gold="  ").outcome is None
    assert graded(r"\boxed{5}", gold=None).answer_strict == "5"
    assert graded(None).correct is None


def test_tail_period_and_onset():
    assert tail_period("x" * 100) is None  # too short
    assert tail_period("abcdefg " * 40) == 8
    start = "Some ordinary text about apples that does not repeat itself at all. "
    text = start + "wait, let me think. " * 30
    onset = loop_onset(text)
    assert onset is not None and len(start) <= onset <= len(start) + 2 * 20
    assert loop_onset(text + "wait, let") == onset  # cut off in the middle of a round
    assert loop_onset(" ".join(str(i * i) for i in range(600))) is None
    counting = "".join(f"Step {i}: we repeat the very same sentence again, as before. " for i in range(400))
    assert tail_period(counting) is None and loop_onset(counting) is not None


# --- sample sets ------------------------------------------------------------------------------------------


@pytest.fixture
def small_set(tmp_path):
    write_run(tmp_path, new_run_record("t", "samples"))
    write_problems(tmp_path, [Problem(f"p{i}", "How many are there of the apples?", str(i)) for i in range(5)])
    append_samples(tmp_path, [
        Sample(f"p{i}", draw, rf"\boxed{{{i if draw else 99}}}", finish_reason="stop")
        for i in range(5) for draw in range(2)
    ])  # fmt: skip
    return tmp_path


def test_grade_set_appends_skips_and_resumes(small_set):
    samples = (small_set / "samples.jsonl").read_bytes()
    assert grade_set(small_set) == {"graded": 10, "kept": 0, "given_up": 0}
    whole = (small_set / "grades.jsonl").read_bytes()
    assert grade_set(small_set) == {"graded": 0, "kept": 10, "given_up": 0}
    assert (small_set / "grades.jsonl").read_bytes() == whole
    (small_set / "grades.jsonl").write_bytes(whole[: len(whole) // 2])  # killed in the middle of a line
    assert grade_set(small_set)["graded"] > 0
    assert (small_set / "grades.jsonl").read_bytes() == whole
    assert (small_set / "samples.jsonl").read_bytes() == samples
    rows = list(read_jsonl(small_set / "grades.jsonl"))
    assert [row["correct"] for row in rows] == [False, True] * 5
    assert set(rows[0]) == {"problem_id", "draw", "answer_strict", "answer_relaxed", "correct", "correct_relaxed",
                            "outcome"}  # fmt: skip


def test_force_regrades_and_replaces_only_grades(small_set):
    grade_set(small_set)
    (small_set / "grades.jsonl").write_text('{"problem_id": "p0", "draw": 0, "correct": true}\n')
    assert grade_set(small_set, force=True)["graded"] == 10
    assert sum(1 for _ in read_jsonl(small_set / "grades.jsonl")) == 10
    assert not (small_set / "grades.jsonl.new").exists()


def test_torn_last_sample_is_left_for_later(small_set):
    with (small_set / "samples.jsonl").open("a") as file:
        file.write('{"problem_id": "p0", "draw": 7, "text": "\\\\boxed{0}"')
    assert grade_set(small_set)["graded"] == 10


@pytest.mark.parametrize(("line", "reason"), [
    ("{broken", "samples.jsonl:11"),
    ('{"problem_id": "zz", "draw": 0}', "zz"),
    ('{"problem_id": "p0", "draw": "x"}', "integer draw"),
    ('{"problem_id": "p0", "draw": 9, "text": 5}', "text should be of type str, not int"),
    ("[" * 100_000, "samples.jsonl:11"),
])  # fmt: skip
def test_malformed_lines_are_named(small_set, line, reason):
    with (small_set / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=reason):
        grade_set(small_set)


def test_two_gradings_of_one_set_at_once_are_refused(small_set):
    with locked(small_set, "held", name=".grading.lock"), pytest.raises(ValueError, match=f"process {os.getpid()}"):
        grade_set(small_set)


def test_worker_processes_give_the_same_file(small_set, monkeypatch):
    grade_set(small_set, processes=1)
    alone = (small_set / "grades.jsonl").read_bytes()
    monkeypatch.setattr(grading, "SERIAL_LINES", 0)
    monkeypatch.setattr(grading, "TASK_LINES", 3)
    grade_set(small_set, force=True, processes=2)
    assert (small_set / "grades.jsonl").read_bytes() == alone


def test_a_folder_that_is_no_sample_set(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        grade_set(tmp_path)


# --- hostile text -----------------------------------------------------------------------------------------

HOSTILE = [
    "\\boxed{" * 200_000, "{" * 1_000_000, "}" * 1_000_000, "\\boxed{" + "{" * 500_000 + "}" * 500_000, "$" * 1_000_000,
    "9" * 1_000_000, "1/" * 500_000, "answer is " * 100_000, "\ud800\udfff\u202e\u200b" * 1000, "a" * 10_000_000,
    "\\boxed{9^9^9^9}", "=HYPERLINK(\"http://x\")", "<script>alert(1)</script>", "<|im_end|>\\boxed{5}", "\x00" * 1000,
    "ab" * 2_500_000, "(" * 300_000, "- " * 500_000, "\\frac{1}{" * 100_000, "\n" * 1_000_000, "等" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_text_is_graded_in_bounded_time(text):
    started = time.process_time()
    sample = graded(text)
    assert sample.outcome in ("loop", "no_answer", "wrong", "off_language", "right")
    assert time.process_time() - started < 10
    json.dumps(sample.answer_strict)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_graded(text):
    grade = grade_text(text + "\\boxed{" + text.replace("}", "") + "}", "5")
    assert isinstance(grade.correct, bool)
    assert canonical_answer(text) == canonical_answer(text + " ")
