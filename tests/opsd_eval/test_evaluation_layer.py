"""A made-up harness log through every step, against what was planted and a second, naive implementation."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from benchmarks.evaluation_layer import write_log
from opsd_eval.cli import main
from opsd_eval.measure import measure_set, read_measures
from opsd_eval.records import read_jsonl

PROBLEMS, DRAWS = 60, 4
OUTCOME = {"right": "right", "wrong": "wrong", "unboxed_right": "no_answer", "unboxed_wrong": "no_answer",
           "loop": "loop", "chinese": "off_language"}  # fmt: skip


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layer")
    truth = write_log(folder / "log", problems=PROBLEMS, draws=DRAWS, seed=1)
    write_log(folder / "other_log", problems=PROBLEMS, draws=DRAWS, seed=2, right=0.2)
    for name in ("log", "other_log"):
        assert main(["ingest", str(folder / name), "--out", str(folder / name.replace("log", "set"))]) == 0
    assert main(["measure", str(folder / "set"), str(folder / "other_set"), "--processes", "1"]) == 0
    golds = [row["doc"]["answer"].split("#### ")[1] for row in read_jsonl(next((folder / "log").glob("samples_*")))]
    return folder, truth, golds


def subsets_mean(items, k, score):
    chosen = list(itertools.combinations(items, k))
    return sum(score(subset) for subset in chosen) / len(chosen)


def vote(subset, gold):
    counts = Counter(answer for answer in subset if answer is not None)
    if not counts:
        return 0.0
    first = [answer for answer, count in counts.items() if count == max(counts.values())]
    return (gold in first) / len(first)


def test_accuracy_to_the_digit(layer):
    folder, truth, golds = layer
    measures = read_measures(folder / "set")
    for number, (row, gold) in enumerate(zip(truth, golds, strict=True)):
        strict = [planted.strict for planted in row]
        right = [answer == gold for answer in strict]
        expected = {
            "avg@4": sum(right) / DRAWS,
            "avg_relaxed@4": sum(planted.relaxed == gold for planted in row) / DRAWS,
            **{f"pass@{k}": subsets_mean(right, k, any) for k in (1, 2, 4)},
            **{f"pass^{k}": subsets_mean(right, k, all) for k in (1, 2, 4)},
            **{f"maj@{k}": subsets_mean(strict, k, lambda s, gold=gold: vote(s, gold)) for k in (1, 2, 4)},
            "loop_rate": sum(planted.kind == "loop" for planted in row) / DRAWS,
            "off_language_rate": sum(planted.kind == "chinese" for planted in row if planted.strict != gold) / DRAWS,
        }
        for name, value in expected.items():
            assert measures.values[name][number] == pytest.approx(value, abs=1e-12), (name, row)


def test_outcomes_and_answers_are_the_planted_ones(layer):
    folder, truth, golds = layer
    grades = list(read_jsonl(folder / "set" / "grades.jsonl"))
    planted = [(p, gold) for row, gold in zip(truth, golds, strict=True) for p in row]
    assert len(grades) == len(planted) == PROBLEMS * DRAWS
    for grade, (made, gold) in zip(grades, planted, strict=True):
        assert (grade["answer_strict"], grade["answer_relaxed"]) == (made.strict, made.relaxed)
        assert grade["outcome"] == ("right" if made.strict == gold else OUTCOME[made.kind])
    rows = {row["metric"]: row["estimate"] for row in json.loads((folder / "set/estimates.json").read_text())["rows"]}
    shares = ("loop_rate", "truncation_rate", "off_language_rate", "no_answer_rate", "wrong_rate")
    assert rows["avg@4"] + sum(rows[name] for name in shares) == pytest.approx(1)


def test_every_verb_on_the_log(layer, capsys):
    folder = layer[0]
    a, b = str(folder / "set"), str(folder / "other_set")
    capsys.readouterr()
    assert main(["audit", a, b, "--json"]) == 0
    assert main(["grade", a]) == 0
    assert main(["compare", a, b, "--json"]) == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]}
    assert rows["avg@4"]["verdict"] == "degraded"
    assert main(["report", a, b, "--out", str(folder / "report")]) == 0
    assert "<title>" in (folder / "report/report.html").read_text(encoding="utf-8")
    assert list((folder / "report/tables").glob("*.csv"))


def test_tfidf_needs_no_model(layer):
    table = measure_set(layer[0] / "set", metrics=["vendi", "embedding_clusters"], embeddings="tfidf", processes=1)
    values = table.set_index("metric").loc[["vendi", "embedding_clusters", "vendi_correct"], "estimate"]
    assert values.between(1, 2).all()  # of two draws, half of four


def test_a_constant_seed_is_caught(tmp_path, capsys):
    write_log(tmp_path / "log", problems=20, draws=DRAWS, seed=3, same_draws=20)
    main(["ingest", str(tmp_path / "log"), "--out", str(tmp_path / "set")])
    capsys.readouterr()
    assert main(["audit", str(tmp_path / "set"), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["level"] for row in rows if row["check"] == "identical_draws"] == ["error"]


def test_other_problems_are_refused(layer, tmp_path, capsys):
    write_log(tmp_path / "log", problems=PROBLEMS - 10, draws=DRAWS, seed=4)
    main(["ingest", str(tmp_path / "log"), "--out", str(tmp_path / "set")])
    assert main(["compare", str(layer[0] / "set"), str(tmp_path / "set")]) == 2
    assert "different problem sets" in capsys.readouterr().err
