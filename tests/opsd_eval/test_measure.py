"""From a graded sample set to measures.csv and estimates.json, and from two of them to differences."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pytest

from opsd_eval import measures, pair_values
from opsd_eval.grading import grade_set
from opsd_eval.measure import compare_sets, measure_set, read_measures, recovered, what_to_buy
from opsd_eval.metrics.base import per_text
from opsd_eval.records import (
    Problem,
    Sample,
    append_samples,
    load_sample_set,
    new_run_record,
    read_json,
    write_problems,
    write_run,
    write_text,
)
from opsd_eval.sample_index import SampleIndex, read_block


def make(folder, right, *, draws=4, seed=0, clusters=False, tokens=True, answers=True):
    """A graded set: problem i is right in ``right[i]`` of its draws."""
    rng = np.random.default_rng(seed)
    problems = [
        Problem(f"p/{i}", f"How many are there of the apples in box {i}?", str(i) if answers else None,
                cluster=f"c{i % 3}" if clusters else None)
        for i in range(len(right))
    ]  # fmt: skip
    samples = []
    for i, count in enumerate(right):
        marks = rng.permutation([True] * count + [False] * (draws - count))
        samples += [
            Sample(f"p/{i}", d, f"Wait, maybe {i} + {d} = {i + d}. \\boxed{{{i if ok else 1000 + d}}}",
                   n_tokens=20 if tokens else None, finish_reason="stop")
            for d, ok in enumerate(marks)
        ]  # fmt: skip
    write_run(folder, new_run_record(folder.name, "samples"))
    write_problems(folder, problems)
    append_samples(folder, samples)
    grade_set(folder)
    return folder


@pytest.fixture
def base(tmp_path):
    return make(tmp_path / "base", [4, 3, 2, 1, 0, 4], clusters=True)


def rows_of(folder):
    with (folder / "measures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_row_a_problem_and_one_estimate_a_metric(base):
    table = measure_set(base)
    rows = rows_of(base)
    assert [row["problem_id"] for row in rows] == [f"p/{i}" for i in range(6)]
    assert list(rows[0])[:3] == ["problem_id", "cluster", "n"] and rows[1]["cluster"] == "c1" and rows[0]["n"] == "4"
    assert [float(row["avg@4"]) for row in rows] == [1, 0.75, 0.5, 0.25, 0, 1]
    assert [float(row["pass@4"]) for row in rows] == [1, 1, 1, 1, 0, 1]
    by_name = {row["metric"]: row for row in table.to_dict("records")}
    assert by_name["avg@4"]["estimate"] == pytest.approx(3.5 / 6) and by_name["avg@4"]["n_problems"] == 6
    assert "clusters" in by_name["avg@4"]["method"]
    assert by_name["truncation_rate"]["estimate"] == 0.0
    held = read_json(base / "estimates.json")
    assert list(held["rows"][0]) == ["metric", "estimate", "low", "high", "method", "n_problems", "n_dropped", "chance"]
    names = {row["metric"] for row in held["rows"]}
    assert {"pass@1", "pass@2", "pass@4", "maj@4", "pass_gap@4", "marker_rate", "step_validity", "distinct_paths",
            "cross_sample_agreement", "distinguishability"} <= names  # fmt: skip
    assert "embedding_clusters" not in names and "p_check" not in names  # on request; only for the testbed


def test_values_read_back_exactly(base):
    measure_set(base, metrics=["avg@k", "marker_concentration"])
    held = read_measures(base)
    assert held.scores("avg@4")["p/1"] == 0.75 and held.clusters[:3] == ["c0", "c1", "c2"]
    assert held.table().shape == (6, 5)


def test_missing_is_missing(tmp_path):
    folder = make(tmp_path / "nogold", [1, 1, 1], answers=False)
    table = measure_set(folder).set_index("metric")
    assert math.isnan(table.loc["avg@4", "estimate"]) and table.loc["avg@4", "n_dropped"] == 3
    assert rows_of(folder)[0]["avg@4"] == ""
    assert table.loc["completion_tokens", "estimate"] == 20


def test_words_stand_in_for_tokens_and_the_estimate_says_so(tmp_path):
    folder = make(tmp_path / "words", [1, 1], tokens=False)
    table = measure_set(folder).set_index("metric")
    assert "words" in table.loc["marker_rate", "method"] and "words" not in table.loc["avg@4", "method"]


def test_the_commands_measure_nothing_twice(base, tmp_path, monkeypatch):
    """Grading, which comes first in both, must leave the time of a file alone that it adds nothing to."""
    from opsd_eval.cli import main

    other = make(tmp_path / "other", [4, 3, 2, 1, 0, 4], clusters=True, seed=1)
    assert main(["measure", str(base), str(other)]) == 0
    monkeypatch.setattr(measures, "measure_block", lambda task: pytest.fail("measured again"))
    assert main(["measure", str(base), str(other)]) == 0
    assert main(["compare", str(base), str(other)]) == 0


def test_a_second_run_computes_only_what_is_new(base, monkeypatch):
    measure_set(base, metrics=["avg@k"])
    seen = []
    original = measures.measure_block

    def spy(task):
        seen.append(list(task["metrics"]))
        return original(task)

    monkeypatch.setattr(measures, "measure_block", spy)
    measure_set(base, metrics=["avg@k"])
    assert seen == []
    measure_set(base, metrics=["avg@k", "loop_rate"])
    assert seen == [["loop_rate"]]
    assert set(rows_of(base)[0]) >= {"avg@4", "loop_rate"}
    append_samples(base, [Sample("p/0", 4, "\\boxed{7}", n_tokens=3, finish_reason="stop")])
    grade_set(base)
    measure_set(base, metrics=["avg@k"])  # the files have changed: everything held is dropped
    assert "loop_rate" not in rows_of(base)[0] and rows_of(base)[0]["avg@5"] == "0.8"


def test_worker_processes_give_the_same_values(base, monkeypatch):
    measure_set(base, processes=1)
    alone = (base / "measures.csv").read_bytes()
    monkeypatch.setattr(measures, "SERIAL_SAMPLES", 0)
    monkeypatch.setattr(SampleIndex, "blocks", lambda self, n=1: [[0, 1], [2, 3], [4], [5]])
    measure_set(base, processes=2, force=True)
    assert (base / "measures.csv").read_bytes() == alone


def test_the_index_reads_what_the_loader_reads(base):
    index = SampleIndex(base)
    loaded = load_sample_set(base)
    for number, samples in read_block(index.task(range(6))):
        assert samples == loaded.samples[f"p/{number}"]


def test_lines_written_by_others_and_torn_lines(base):
    with (base / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"draw": 9, "text": "x", "problem_id": "p/0"}) + "\n")  # other key order
        file.write('{"problem_id": "p/0", "draw": 10, "te')  # in flight
    index = SampleIndex(base)
    assert index.samples.counts().tolist() == [5, 4, 4, 4, 4, 4]
    samples = read_block(index.task([0]))[0][1]
    assert samples[-1].draw == 9 and samples[-1].correct is None


@pytest.mark.parametrize(("line", "reason"), [
    ('{"problem_id": "p/0", "draw": 0}', "draw 0 twice"),
    ('{"problem_id": "zz", "draw": 0}', "zz"),
    ('{"draw": 3}', "KeyError"),
])  # fmt: skip
def test_broken_sets_are_named(base, line, reason):
    with (base / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=reason):
        measure_set(base, metrics=["avg@k"])


def test_ungraded_and_missing_sets(tmp_path, base):
    (base / "grades.jsonl").unlink()
    with pytest.raises(ValueError, match="opsd-eval grade"):
        measure_set(base)
    with pytest.raises(ValueError, match="no such file"):
        measure_set(tmp_path / "nothing")
    with pytest.raises(ValueError, match="opsd-eval measure"):
        read_measures(tmp_path / "nothing")


def test_an_empty_set_has_no_estimates_and_no_crash(tmp_path):
    folder = make(tmp_path / "empty", [])
    table = measure_set(folder)
    assert table.empty or table["estimate"].isna().all()


def test_embeddings_on_request_and_encoder_remembered(base):
    table = measure_set(base, metrics=["avg@k"], embeddings="tfidf").set_index("metric")
    assert table.loc["vendi", "estimate"] >= 1 and "tfidf" in table.loc["vendi", "method"]
    assert read_json(base / "estimates.json")["encoder"]["name"] == "tfidf"


def test_memory_of_remembered_texts_is_bounded():
    calls = []
    length = per_text(lambda text: calls.append(1) or len(text))
    length.max_chars = 100
    for i in range(50):
        assert length(f"{i:010d}") == 10
    assert len(length.held) <= 10 and len(calls) == 50


# --- two and three sets -----------------------------------------------------------------------------------


def test_what_to_buy_names_the_larger_part_of_the_error(base):
    """Rates .5, .5 with two draws: all error is sampling; 0 and 1: all is between problems."""
    write_text(base / "measures.csv", "problem_id,cluster,n,avg@2\np0,,2,0.5\np1,,2,0.5\n")
    assert what_to_buy(base).startswith("avg@2: squared error from problems 0%, samples 100%; buy samples")
    write_text(base / "measures.csv", "problem_id,cluster,n,avg@2\np0,,2,0\np1,,2,1\n")
    assert "problems 100%, samples 0%; buy problems" in what_to_buy(base)
    write_text(base / "measures.csv", "problem_id,cluster,n,closure\np0,,2,0\n")
    assert what_to_buy(base) == ""


def test_differences_are_paired_and_second_minus_first(tmp_path, base):
    other = make(tmp_path / "other", [2, 1, 2, 0, 0, 4], seed=1)
    table = compare_sets(base, other).set_index("metric")
    row = table.loc["avg@4"]
    assert row["difference"] == pytest.approx(-(2 + 2 + 1) / 24)
    assert (row["a"], row["b"]) == (pytest.approx(14 / 24), pytest.approx(9 / 24))
    assert row["better"] == "higher" and row["adjustment"] == "benjamini-hochberg"
    # only problem 3 is solved by the first and never by the second
    assert table.loc["support_loss", "difference"] == pytest.approx(1 / 6)
    assert 0 < table.loc["support_loss", "chance"] < 0.5
    assert table.loc["marker_shift", "difference"] == pytest.approx(0.0, abs=1e-12)
    assert table.loc["crossover_k", "difference"] == 1.0


def test_named_metrics_margins_and_verdicts(tmp_path, base):
    other = make(tmp_path / "other", [4, 3, 2, 1, 0, 4])
    table = compare_sets(base, other, metrics=["avg@k", "wrong_rate", "support_loss"], margin=0.5).set_index("metric")
    assert list(table.index) == ["avg@4", "wrong_rate", "support_loss"]
    assert table.loc["avg@4", "verdict"] == "preserved" and table.loc["avg@4", "adjustment"] == "holm"
    with pytest.raises(ValueError, match="support_loss"):
        compare_sets(base, other, metrics=["suport_loss"])


def test_clear_changes_are_named_by_direction(tmp_path):
    first = make(tmp_path / "first", [4] * 12)
    second = make(tmp_path / "second", [0, 1] * 6)
    table = compare_sets(first, second, metrics=["avg@k", "wrong_rate", "self_consistency"]).set_index("metric")
    assert table["verdict"].to_dict() == {"avg@4": "degraded", "wrong_rate": "degraded", "self_consistency": "undecided"}


def test_different_problems_are_refused(tmp_path, base):
    other = make(tmp_path / "other", [4, 3])
    with pytest.raises(ValueError, match="different problem sets"):
        compare_sets(base, other)


def test_unequal_draws_share_only_what_does_not_depend_on_them(tmp_path, base):
    other = make(tmp_path / "other", [2, 2, 2, 2, 2, 2], draws=2)
    names = set(compare_sets(base, other)["metric"])
    assert {"pass@2", "marker_rate"} <= names and not {"distinct_answers", "avg@4", "pass@4"} & names


def test_recovered_fraction(tmp_path):
    first = make(tmp_path / "base", [4] * 20)
    standard = make(tmp_path / "standard", [1, 2] * 10)
    purified = make(tmp_path / "purified", [4, 3] * 10)
    row = recovered(first, standard, purified, metrics=["avg@k"]).iloc[0]
    assert row["recovered_fraction"] == pytest.approx((3.5 - 1.5) / (4 - 1.5))
    assert row["low"] < row["recovered_fraction"] < row["high"]
    same = recovered(first, first, purified, metrics=["avg@k"]).iloc[0]
    assert math.isnan(same["recovered_fraction"]) and "undefined" in same["method"]


def test_probes_reach_the_metrics_that_need_them(base, monkeypatch):
    from opsd_eval import metrics
    from opsd_eval.metrics.base import Metric
    from opsd_eval.records import append_jsonl

    probed = Metric("probed", lambda problem, samples: len(problem.metadata["probes"]), "neither", needs=("probes",))
    monkeypatch.setattr(metrics, "METRICS", {**metrics.METRICS, "probed": probed})
    with pytest.raises(ValueError, match="opsd-eval probe"):
        measure_set(base, metrics=["probed"])
    measure_set(base, metrics=["avg@k"])
    append_jsonl(base / "probes.jsonl", [{"problem_id": "p/1", "draw": d, "share": 0.5} for d in range(3)])
    measure_set(base, metrics=["probed"])
    assert [row["probed"] for row in rows_of(base)] == ["0.0", "3.0", "0.0", "0.0", "0.0", "0.0"]
    assert "avg@4" in rows_of(base)[0], "a probe leaves what does not depend on it"
    append_jsonl(base / "probes.jsonl", [{"problem_id": "p/3", "draw": 0, "share": 0.5}])
    measure_set(base, metrics=["avg@k"])
    assert "probed" not in rows_of(base)[0], "what depends on probes goes when they change"


def test_pairs_in_worker_processes_give_the_same_rows(tmp_path, base, monkeypatch):
    other = make(tmp_path / "other", [2, 1, 2, 0, 0, 4], seed=1)
    alone = compare_sets(base, other, metrics=["support_loss", "marker_shift", "hard_tail_retention"])
    monkeypatch.setattr(pair_values, "SERIAL_SAMPLES", 0)
    monkeypatch.setattr(pair_values, "default_processes", lambda: 2)
    monkeypatch.setattr(SampleIndex, "blocks", lambda self, n=1: [[0, 1, 2], [3], [4, 5]])
    again = compare_sets(base, other, metrics=["support_loss", "marker_shift", "hard_tail_retention"])
    assert alone.equals(again)


def test_a_column_that_is_no_metric_is_measured_anew_and_never_read(tmp_path, base):
    measure_set(base)
    whole = (base / "measures.csv").read_text()
    (base / "measures.csv").write_text(whole.replace("loop_rate", "loop_r"))
    with pytest.raises(ValueError, match=r"base/measures\.csv: damaged: unknown metric 'loop_r'"):
        read_measures(base)
    measure_set(base)
    assert (base / "measures.csv").read_text() == whole


@pytest.fixture
def large(base, tmp_path, monkeypatch):
    """Two sets that count as large, and how often their completions were read to be compared."""
    monkeypatch.setattr(pair_values, "SERIAL_SAMPLES", 0)
    monkeypatch.setattr(pair_values, "default_processes", lambda: 1)
    read = []
    computed = pair_values._computed
    monkeypatch.setattr(pair_values, "_computed", lambda *args, **more: read.append(1) or computed(*args, **more))
    return base, make(tmp_path / "other", [2, 1, 2, 0, 0, 4], seed=1), read


def test_a_second_comparison_of_the_same_files_reads_no_completion(large):
    base, other, read = large
    first = compare_sets(base, other)
    assert compare_sets(base, other).equals(first) and len(read) == 1
    assert compare_sets(base, other, metrics=["support_loss"]).shape == (1, first.shape[1]) and len(read) == 1
    compare_sets(other, base)
    assert len(read) == 2, "the other way round is another comparison"


def test_what_was_kept_of_a_comparison_goes_when_a_file_changes(large):
    base, other, read = large
    before = compare_sets(base, other, metrics=["support_loss"])
    shutil.copytree(make(base.parent / "lost", [0] * 6), other, dirs_exist_ok=True)
    after = compare_sets(base, other, metrics=["support_loss"])
    assert len(read) == 2 and after["difference"][0] > before["difference"][0]


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", '{"files": 3}', {"counts": [[4, 1, 4, 1]] * 5}, {"counts": [[4, 9, 4, 1]] * 6},
        {"counts": [[10**400] * 4] * 6}, {"values": {"support_loss": [0.0]}}, {"nulls": {}},
        {"values": {"support_loss": ["x"] * 6}},
    ],
    ids=lambda damage: str(damage)[:40],
)  # fmt: skip
def test_what_was_kept_of_a_comparison_is_computed_again_when_it_is_damaged(large, damage):
    base, other, read = large
    first = compare_sets(base, other, metrics=["support_loss", "crossover_k"])
    [kept] = other.glob("against-*.json")
    kept.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(kept.read_text()) | damage))
    assert compare_sets(base, other, metrics=["support_loss", "crossover_k"]).equals(first) and len(read) == 2


def test_small_sets_keep_nothing_of_a_comparison(tmp_path, base):
    other = make(tmp_path / "other", [2, 1, 2, 0, 0, 4], seed=1)
    compare_sets(base, other)
    assert not [*base.glob("against-*"), *other.glob("against-*")]
