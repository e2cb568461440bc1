"""The command: quick, teaching, and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from opsd_eval import cli
from opsd_eval.records import Problem, Sample, append_samples, new_run_record, write_problems, write_run


@pytest.fixture
def two_sets(tmp_path):
    for name, wrong in (("a", 1), ("b", 3)):
        folder = tmp_path / name
        write_run(folder, new_run_record(name, "samples"))
        write_problems(folder, [Problem(f"p{i}", "How many of the apples are there?", str(i)) for i in range(6)])
        append_samples(folder, [
            Sample(f"p{i}", d, f"\\boxed{{{i if d >= wrong else 99}}}", n_tokens=5, finish_reason="stop")
            for i in range(6) for d in range(4)
        ])  # fmt: skip
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_help_is_quick_and_imports_nothing_heavy():
    started = time.process_time()
    result = subprocess.run(
        [sys.executable, "-c", "import sys, opsd_eval.cli as c\ntry:\n c.main(['--help'])\nexcept SystemExit:\n pass\n"
         "assert not {'numpy', 'torch', 'pandas', 'transformers'} & set(sys.modules)"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert time.process_time() - started < 5
    for verb in cli.VERBS:
        assert f"    {verb}" in result.stdout
    assert "sample set is a folder" in result.stdout


def test_grade_measure_compare(two_sets, capsys):
    a, b = two_sets
    assert cli.main(["grade", a]) == 0
    assert "graded 24" in capsys.readouterr().out
    assert cli.main(["measure", a, "--metric", "avg@k"]) == 0
    assert "avg@4" in capsys.readouterr().out
    assert cli.main(["compare", a, b, "--metric", "avg@k", "--margin", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "degraded" in out and "-0.5" in out


def test_json_is_all_there_is_on_standard_output(two_sets, capsys):
    a, b = two_sets
    assert cli.main(["measure", a, b, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["set"] for row in rows} == {a, b}
    assert next(r for r in rows if r["metric"] == "avg@4" and r["set"] == b)["estimate"] == 0.25
    assert cli.main(["compare", a, b, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert next(r for r in rows if r["metric"] == "avg@4")["difference"] == -0.5
    assert cli.main(["compare", a, b, a, "--metric", "avg@k", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["contrast"].split("/")[-1] for row in rows] == ["a", "a", "b", "recovered_fraction"]


def test_compare_adds_generalization_gaps_by_axis(tmp_path, capsys):
    for name, wrong in (("a", {3: 0, 5: 0}), ("b", {3: 1, 5: 3})):
        folder = tmp_path / name
        write_run(folder, new_run_record(name, "samples"))
        write_problems(folder, [
            Problem(f"p{i}", "How many of the apples?", str(i), axes={"length": 3 + 2 * (i % 2)}) for i in range(8)
        ])  # fmt: skip
        append_samples(folder, [
            Sample(f"p{i}", d, f"\\boxed{{{i if d >= wrong[3 + 2 * (i % 2)] else 99}}}") for i in range(8)
            for d in range(4)
        ])  # fmt: skip
    sets = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main(["compare", *sets, "--metric", "avg@k", "--axis", "length=3", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][-1]
    assert (row["value"], row["change_in"], row["change_out"], row["gap"]) == ("5", -0.25, -0.75, 0.5)
    assert cli.main(["compare", *sets, "--axis", "length"]) == 2


def test_compare_adds_gaps_to_other_problems_to_twins_and_by_exposure(tmp_path, capsys):
    def write(name, right, *, twins=False):
        questions = [f"Question {'two' if twins else 'one'} {i}?" for i in range(4)]
        folder = tmp_path / name
        write_run(folder, new_run_record(name, "samples"))
        write_problems(folder, [
            Problem(f"{'q' if twins else 'p'}{i}", text, "7", metadata={"twin_of": f"p{i}"} if twins else {})
            for i, text in enumerate(questions)
        ])  # fmt: skip
        append_samples(folder, [
            Sample(f"{'q' if twins else 'p'}{i}", d, f"\\boxed{{{7 if d < right else 9}}}") for i in range(4)
            for d in range(4)
        ])  # fmt: skip
        return str(folder)

    sets = [write("a", 1), write("b", 4)]
    others = [write("a2", 1, twins=True), write("b2", 2, twins=True)]
    (tmp_path / "train.jsonl").write_text('{"question": "question one 0"}\n{"question": "Question one 1?"}\n')
    options = ["--metric", "avg@k", "--json", "--train", str(tmp_path / "train.jsonl")]
    assert cli.main(["compare", *sets, *options, "--against", *others]) == 0
    exposure, twins = json.loads(capsys.readouterr().out)["rows"][-2:]
    assert (exposure["axis"], exposure["value"], exposure["gap"], exposure["n_problems"]) == ("exposure", "held_out", 0, 4)
    assert (twins["axis"], twins["gap"], twins["n_problems"]) == ("twins", 0.5, 4)
    assert cli.main(["compare", *sets, "--against", others[0]]) == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["measure", "no_such_set"], "no such file"),
    (["grade", "no_such_set"], "no such file"),
    (["measure", "SET", "--metric", "pas@k"], "pass@k"),
    (["compare", "SET"], "two or three"),
])  # fmt: skip
def test_mistakes_are_one_message_and_exit_code_two(two_sets, capsys, arguments, message):
    assert cli.main([two_sets[0] if word == "SET" else word for word in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("opsd-eval: ") and message in captured.err and "Traceback" not in captured.err
    assert captured.out == ""


def test_unknown_verb_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["messure"])
    assert stopped.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_list_metrics_names_every_one(capsys):
    from opsd_eval.metrics import CORPUS_METRICS, FAMILIES, METRICS, PAIR_METRICS, SET_PAIR_METRICS

    assert cli.main(["list", "metrics"]) == 0
    out = capsys.readouterr().out
    for registry in (FAMILIES, METRICS, PAIR_METRICS, SET_PAIR_METRICS, CORPUS_METRICS):
        for name in registry:
            assert f"\n{name}" in "\n" + out


@pytest.mark.parametrize("verb", ["audit", "grade", "measure", "compare", "report", "doctor", "ingest", "list"])
def test_verbs_teach_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    _, _, examples = capsys.readouterr().out.partition("examples:")
    assert examples.count(f"\n  opsd-eval {verb} ") >= 2
