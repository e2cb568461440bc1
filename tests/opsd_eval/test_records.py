"""Records: strict files, torn lines, whole-or-nothing writes, grades joined by key."""

from __future__ import annotations

import math

import pytest

from opsd_eval import records
from opsd_eval.names import lookup
from opsd_eval.records import Problem, RunRecord, Sample


def make_set(folder, n=3, draws=2):
    records.write_run(folder, RunRecord(name="r", kind="sample"))
    records.write_problems(folder, [Problem(problem_id=f"p{i}", question="1 + 1 ?", answer="2") for i in range(n)])
    records.append_samples(folder, [Sample(f"p{i}", d, text=f"t{i}{d}", token_ids=[1, 2]) for i in range(n) for d in range(draws)])
    return folder


def test_round_trip_keeps_every_generation_field(tmp_path):
    make_set(tmp_path)
    loaded = records.load_sample_set(tmp_path)
    assert list(loaded.problems) == ["p0", "p1", "p2"]
    assert [s.text for s in loaded.samples["p1"]] == ["t10", "t11"]
    assert loaded.samples["p1"][0].token_ids == [1, 2]
    assert loaded.samples["p1"][0].correct is None


def test_grades_join_by_problem_and_draw(tmp_path):
    make_set(tmp_path)
    records.append_jsonl(tmp_path / "grades.jsonl", [{"problem_id": "p2", "draw": 1, "correct": True, "outcome": "right"}])
    graded = records.load_sample_set(tmp_path).samples
    assert graded["p2"][1].correct is True
    assert graded["p2"][0].correct is None
    assert records.load_sample_set(tmp_path, graded=False).samples["p2"][1].correct is None


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_kill_at_any_byte_loses_at_most_the_line_in_flight(tmp_path, cut):
    make_set(tmp_path)
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = len(records.sampled_keys(tmp_path))
    assert kept in (5, 6)
    records.append_samples(tmp_path, [Sample("p2", 9, text="new")])
    keys = records.sampled_keys(tmp_path)
    assert ("p2", 9) in keys and len(keys) == 6


def test_malformed_line_names_file_and_line_or_is_collected(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\nnot json\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2"):
        list(records.read_jsonl(path))
    found = []
    assert [r["a"] for r in records.read_jsonl(path, problems=found)] == [1, 2]
    assert len(found) == 1


def test_duplicates_and_strangers_are_errors(tmp_path):
    make_set(tmp_path)
    records.append_samples(tmp_path, [Sample("p0", 0, text="again")])
    with pytest.raises(ValueError, match="draw twice"):
        records.load_sample_set(tmp_path)
    make_set(tmp_path / "b")
    records.append_samples(tmp_path / "b", [Sample("zzz", 0, text="?")])
    with pytest.raises(ValueError, match="zzz"):
        records.load_sample_set(tmp_path / "b")


def test_nan_becomes_null_and_surrogates_survive(tmp_path):
    records.append_jsonl(tmp_path / "x.jsonl", [{"v": math.nan, "t": "\ud800", "i": math.inf}])
    assert list(records.read_jsonl(tmp_path / "x.jsonl")) == [{"v": None, "t": "\ud800", "i": None}]


def test_failed_write_leaves_the_old_file(tmp_path):
    records.write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        records.write_json(tmp_path / "x.json", {"a": {1, 2}})
    assert records.read_json(tmp_path / "x.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_lookup_suggests_the_nearest_name():
    with pytest.raises(ValueError, match="purified"):
        lookup("target", "purifed", {"purified": 1, "standard": 2})
