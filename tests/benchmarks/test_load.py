"""The load of many samples in a tiny form: it goes on where it stopped, counts each verb once, and its table is its rows."""

from __future__ import annotations

import json

import pytest

from benchmarks import load

PART = {"seconds": 2.0, "cpu_seconds": 1.0}


def test_goes_on_where_it_stopped_and_adds_up_over_the_runs(tmp_path, monkeypatch):
    ran, stops = [], [7]

    def timed(verb, *arguments):
        if len(ran) in stops:
            raise RuntimeError(f"stopped at {stops.pop()}")
        ran.append(verb)
        return {**PART, "peak_mib": float(len(ran))}

    monkeypatch.setattr(load, "timed", timed)
    with pytest.raises(RuntimeError, match="stopped at 7"):
        load.measure_load(tmp_path, samples=48, runs=3)
    made = tmp_path / "set-1" / "measures.csv"
    made.parent.mkdir()
    made.write_text("left by the verb that was stopped")
    rows = load.measure_load(tmp_path, samples=48, runs=3)
    assert ran == [verb for _ in range(2) for verb in load.VERBS for _ in range(3)] and not made.exists()
    assert [(row["round"], row["verb"]) for row in rows] == [(t, v) for t in ("first", "second") for v in load.VERBS]
    assert all((row["seconds"], row["cpu_seconds"]) == (6.0, 3.0) for row in rows)
    assert [row["peak_mib"] for row in rows] == [3.0 * n for n in range(1, 9)]
    assert load.measure_load(tmp_path, samples=48, runs=3) == rows and len(ran) == 24
    with pytest.raises(ValueError, match="holds another load"):
        load.measure_load(tmp_path, samples=96, runs=3)
    assert len((tmp_path / "log-2.jsonl").read_text().splitlines()) == 16


def test_a_verb_is_timed_as_a_process_of_its_own(tmp_path):
    (log,) = load.write_logs(tmp_path, samples=16, runs=1)
    row = load.timed("ingest", log, "--out", tmp_path / "set", "--format", "generic")
    assert 0 < row["cpu_seconds"] < 60 and 5 < row["peak_mib"] < 2000
    with pytest.raises(RuntimeError, match="exit 2"):
        load.timed("grade", tmp_path / "nowhere")


def test_the_table_of_the_docs_is_that_of_the_kept_rows():
    rows = json.loads(load.KEPT.read_text())
    body = load.PAGE.read_text(encoding="utf-8").split("<!-- load:begin -->")[1].split("<!-- load:end -->")[0]
    assert body.strip() == load.table(rows)
    assert {row["samples"] for row in rows} >= {25_000, 250_000}
