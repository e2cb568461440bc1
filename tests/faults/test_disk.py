"""Disks that are full, read-only or whose clock jumps: files appear whole or not at all, and the same command goes on."""

from __future__ import annotations

import os
import time

import pytest

from opsd_eval.jsonl import append_jsonl, read_jsonl, write_text
from opsd_eval.whole import whole_folder
from opsd_train.checkpoint import checkpoint_path, newest_whole
from tests.faults.scenarios import SCENARIOS

# a limit that the command meets before its end, in bytes a file
LIMITS = {"training": 300_000, "sampling": 20_000, "grading": 20_000, "ingest": 100_000, "measure": 3_000, "report": 30_000}


@pytest.mark.parametrize("name", SCENARIOS)
def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(warm, tmp_path, name):
    scenario, work = SCENARIOS[name], tmp_path / "work"

    def run(**limits):
        warm.start(scenario.module, scenario.argv(work), log=tmp_path / "log", watch=work, **limits)
        return warm.code()

    work.mkdir()
    scenario.prepare(work)
    assert run(largest_file=LIMITS[name]) == 2, (tmp_path / "log").read_text()[-2000:]
    message = (tmp_path / "log").read_text()
    assert "free space" in message and "Traceback" not in message, message[-2000:]
    done = scenario.keys(work)
    assert not [p for p in work.rglob("*") if p.name.endswith((".tmp", ".partial")) or p.name == "report.html"]
    assert run() == 0, (tmp_path / "log").read_text()[-2000:]
    now = scenario.keys(work)
    assert len(now) == len(set(now)) and set(done) <= set(now)
    resumed = scenario.digest(work)
    whole = tmp_path / "whole"
    work.rename(whole)
    work.mkdir()
    scenario.prepare(work)
    assert run() == 0
    assert scenario.digest(work) == resumed


def test_rows_are_appended_whole_or_not_at_all_on_a_full_disk(small_disk):
    path, rows = small_disk / "x.jsonl", [{"n": n, "text": "x" * 1000} for n in range(100)]
    append_jsonl(path, rows)
    with pytest.raises(OSError, match="No space"):
        for _ in range(10):
            append_jsonl(path, rows)
    held = [row["n"] for row in read_jsonl(path)]
    assert len(held) % 100 == 0 and held == list(range(100)) * (len(held) // 100)
    assert path.read_bytes().endswith(b"\n")


def test_files_and_checkpoints_appear_whole_or_not_at_all_on_a_full_disk(small_disk):
    write_text(small_disk / "a.txt", "old")
    with pytest.raises(OSError, match="No space"):
        write_text(small_disk / "a.txt", "x" * 300_000)
    assert (small_disk / "a.txt").read_text() == "old" and len(list(small_disk.iterdir())) == 1
    with whole_folder(checkpoint_path(small_disk, 1), {"step": 1}) as folder:
        (folder / "model.safetensors").write_bytes(b"x" * 1000)
    with pytest.raises(OSError, match="could not be written"), whole_folder(checkpoint_path(small_disk, 2), {}) as folder:
        import torch
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(100_000)}, folder / "model.safetensors")
    assert newest_whole(small_disk) == checkpoint_path(small_disk, 1)
    assert [p.name for p in (small_disk / "checkpoints").iterdir()] == ["step-000001"]


@pytest.mark.parametrize("name", ["training", "sampling", "ingest", "report"])
def test_a_read_only_folder_is_named(warm, tmp_path, read_only, name):
    scenario, work = SCENARIOS[name], tmp_path / "work"
    work.mkdir()
    scenario.prepare(work)
    argv = [read_only / "x" if str(word).startswith(str(work)) and argv_is_out(scenario, work, at) else word
            for at, word in enumerate(scenario.argv(work))]  # fmt: skip
    warm.start(scenario.module, argv, log=tmp_path / "log", watch=work)
    assert warm.code() == 2
    message = (tmp_path / "log").read_text()
    assert str(read_only) in message and "Traceback" not in message, message[-2000:]


def argv_is_out(scenario, work, at):
    return scenario.argv(work)[at - 1] == "--out"


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch):
    """Files from the future and a clock that runs backwards: sampling, grading and measuring neither redo nor lose."""
    from opsd_eval.grading import grade_set
    from opsd_eval.measure import measure_set
    from tests.faults.scenarios import made_up_set

    made_up_set(tmp_path / "a", 20, 4)
    grade_set(tmp_path / "a")
    measure_set(tmp_path / "a", processes=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir() if p.is_file()}
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (4e9, 4e9))
    now = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert grade_set(tmp_path / "a")["graded"] == 0
    measure_set(tmp_path / "a", processes=1)
    append_jsonl(tmp_path / "a" / "samples.jsonl", [{"problem_id": "p00000", "draw": 4, "text": "\\boxed{1}"}])
    os.utime(tmp_path / "a" / "samples.jsonl", (1, 1))  # new, and older than everything
    assert grade_set(tmp_path / "a")["graded"] == 1
    table = measure_set(tmp_path / "a", processes=1)
    after = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir() if p.is_file()}
    assert after["measures.csv"] != before["measures.csv"] and after["grades.jsonl"].startswith(before["grades.jsonl"])
    assert len(table)
