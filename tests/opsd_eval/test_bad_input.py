"""Every kind of bad input has one defined outcome, from the log to the report."""

from __future__ import annotations

import json
import math
import random
import time

import pytest

from opsd_eval.cli import main
from opsd_eval.grading import grade_sample, grade_text
from opsd_eval.measure import read_measures
from opsd_eval.metrics import default_metrics
from opsd_eval.records import Problem, Sample, read_jsonl, read_problems
from opsd_eval.stats import mean_estimate, paired_difference

QUESTION = "How many apples are there in the basket when she adds four of them to the three?"
PROBLEM = Problem("p", QUESTION, "7")
GOOD = "There are three and she adds four, so 3 + 4 = 7. \\boxed{7}"


def row(problem, draw, text, **more):
    return {"problem_id": problem, "question": QUESTION, "answer": "7", "draw": draw, "text": text, **more}


def write(path, rows):
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def through(tmp_path, rows, name="set"):
    """Ingest, audit, grade and measure a generic log; returns the set's folder."""
    out = tmp_path / name
    assert main(["ingest", write(tmp_path / f"{name}.jsonl", rows), "--out", str(out), "--format", "generic"]) in (0, 1)
    assert main(["audit", str(out)]) in (0, 1)
    assert main(["grade", str(out), "--processes", "1"]) == 0
    assert main(["measure", str(out), "--processes", "1"]) == 0
    return out


def outcomes(folder):
    return {(g["problem_id"], g["draw"]): g["outcome"] for g in read_jsonl(folder / "grades.jsonl")}


def audited(folder, capsys):
    capsys.readouterr()
    main(["audit", str(folder), "--json"])
    return {finding["check"] for finding in json.loads(capsys.readouterr().out)["rows"]}


def test_malformed_lines_are_named_and_the_rest_goes_through(tmp_path, capsys):
    rows = [row("a", 0, GOOD), "{torn\n", "[1]\n", row("a", "x", GOOD), row("b", 0, GOOD)]
    folder = through(tmp_path, rows)
    assert outcomes(folder) == {("a", 0): "right", ("b", 0): "right"}
    capsys.readouterr()
    assert "malformed" in audited(folder, capsys)
    path = write(tmp_path / "again.jsonl", rows)
    assert main(["ingest", path, "--out", str(tmp_path / "strict"), "--format", "generic", "--strict"]) == 2
    assert "again.jsonl:2: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "   ", "\n\t\n \u3000"])
def test_empty_and_blank_completions_are_no_answer(text):
    assert grade_sample(PROBLEM, Sample("p", 0, text)).outcome == "no_answer"
    graded = [grade_sample(PROBLEM, Sample("p", draw, text)) for draw in range(4)]
    values = {metric.name: metric(PROBLEM, graded) for metric in default_metrics(4)}
    assert values["avg@4"] == 0 and values["pass@4"] == 0 and values["no_answer_rate"] == 1
    for name in ("step_validity", "closure", "distinct_answers", "marker_rate"):
        assert math.isnan(values[name]), name


def test_empty_completions_are_reported_by_the_audit(tmp_path, capsys):
    folder = through(tmp_path, [row(f"p{i}", d, "" if d else GOOD) for i in range(4) for d in range(4)])
    assert "empty_completions" in audited(folder, capsys)


def test_ten_megabytes(tmp_path):
    rng = random.Random(0)
    words = rng.choices([f"{word}{n}" for word in ("add", "take", "so", "then", "count") for n in range(99)], k=1_500_000)
    varied, looped = " ".join(words)[: 10 * 2**20], "and again 1 + 1 = 2. " * 500_000
    start = time.monotonic()
    folder = through(tmp_path, [row("a", 0, varied), row("a", 1, varied[:-9] + "\\boxed{7}"), row("a", 2, looped)])
    assert time.monotonic() - start < 300
    assert outcomes(folder) == {("a", 0): "no_answer", ("a", 1): "right", ("a", 2): "loop"}
    assert main(["report", str(folder), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").stat().st_size < 2**20


@pytest.mark.parametrize("answer", ["(" * 5000 + "7" + ")" * 5000, "9^9^9^9", "9^{9^{9^{9}}}", "{" * 900 + "}" * 900,
                                    "\\sqrt{" * 300 + "2" + "}" * 300])  # fmt: skip
def test_monstrous_answers_are_wrong_in_bounded_time(answer):
    start = time.monotonic()
    assert grade_text(f"So it is \\boxed{{{answer}}}", "7").correct is False
    assert grade_text(f"So it is {answer} = \\boxed{{7}}", "7").correct is True
    assert time.monotonic() - start < 30


def test_nan_scores_of_the_harness_are_not_read_as_values(tmp_path):
    line = {
        "doc_id": 0, "doc": {"question": QUESTION}, "target": "7", "arguments": {"gen_args_0": {"arg_0": QUESTION}},
        "resps": [[GOOD, GOOD]], "filtered_resps": [[GOOD, GOOD]], "filter": "none", "metrics": ["exact_match"],
        "doc_hash": "a" * 64, "exact_match": float("nan"),
    }  # fmt: skip
    path = write(tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl", [line])
    assert "NaN" in (tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl").read_text()
    assert main(["ingest", path, "--out", str(tmp_path / "set")]) == 0
    assert main(["measure", str(tmp_path / "set"), "--processes", "1"]) == 0
    assert read_measures(tmp_path / "set").values["avg@2"].tolist() == [1.0]


def test_nan_values_are_dropped_and_counted():
    estimate = mean_estimate([0.0, math.nan, 1.0, 1.0])
    assert (estimate.n_problems, estimate.n_dropped) == (3, 1) and estimate.value == pytest.approx(2 / 3)
    pair = paired_difference({"a": 1.0, "b": math.nan, "c": 0.0}, {"a": 0.0, "b": 1.0, "c": 0.5})
    assert (pair.n_problems, pair.n_dropped) == (2, 1) and pair.value == pytest.approx(0.25)


@pytest.mark.parametrize("gold", [None, "", "  ", float("nan"), float("inf")])
def test_missing_gold_is_unknown_and_never_wrong(tmp_path, capsys, gold):
    rows = [row(f"p{i}", d, GOOD, answer=gold if i else "7") for i in range(3) for d in range(2)]
    folder = through(tmp_path, rows)
    assert outcomes(folder)[("p1", 0)] is None and outcomes(folder)[("p0", 0)] == "right"
    values = read_measures(folder).values["avg@2"]
    assert values[0] == 1 and math.isnan(values[1]) and math.isnan(values[2])
    assert read_problems(folder)["p1"].answer in (None, "", "  ")
    assert "missing_gold" in audited(folder, capsys)


def test_mixed_draws_leave_large_k_undefined(tmp_path, capsys):
    folder = through(tmp_path, [row(f"p{i}", d, GOOD) for i in range(4) for d in range(4 if i else 2)])
    measures = read_measures(folder)
    assert math.isnan(measures.values["pass@4"][0]) and measures.values["pass@4"][1] == 1
    assert measures.values["pass@2"].tolist() == [1.0] * 4
    estimates = {r["metric"]: r for r in json.loads((folder / "estimates.json").read_text())["rows"]}
    assert estimates["pass@4"]["n_dropped"] == 1
    assert audited(folder, capsys) & {"unequal_draws", "missing_samples"}


def test_a_language_without_a_marker_list_is_unknown_not_zero():
    text = "أولا نحسب التفاح في السلة ثم نضيف اربعة الى ثلاثة فيكون العدد سبعة. " * 3 + "\\boxed{8}"
    graded = [grade_sample(PROBLEM, Sample("p", draw, text + " " * draw)) for draw in range(2)]
    values = {metric.name: metric(PROBLEM, graded) for metric in default_metrics(2)}
    assert math.isnan(values["marker_rate"]) and values["off_language_rate"] == 1


def test_an_undetermined_language_is_accused_of_nothing():
    text = "Vilka zanto morbek lipun tarvos denku, porem zilta wandrok fesmi lantor. " * 3 + "\\boxed{8}"
    graded = [grade_sample(PROBLEM, Sample("p", draw, text + " " * draw)) for draw in range(2)]
    assert {sample.outcome for sample in graded} == {"wrong"}
    values = {metric.name: metric(PROBLEM, graded) for metric in default_metrics(2)}
    assert values["marker_rate"] == 0  # read with the English and Chinese lists
    assert values["language_switches"] == 0 or math.isnan(values["language_switches"])


def test_html_is_inert_from_log_to_report(tmp_path):
    evil = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> \\boxed{7}"
    rows = [row(f"p{i}", d, evil, question=QUESTION + "<b onclick=x()>") for i in range(3) for d in range(2)]
    folder = through(tmp_path, rows)
    assert main(["report", str(folder), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "<script>document" not in page and "<img src=x" not in page and "<b onclick" not in page
    assert "&lt;img src=x" in page
