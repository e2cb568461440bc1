"""Every command killed at random moments, in a short form; ``python -m tests.faults`` is the full one."""

from __future__ import annotations

import signal

import pytest

from tests.faults.rounds import kill_rounds
from tests.faults.scenarios import SCENARIOS, made_up_set


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_the_same_command_goes_on_to_the_same_files(warm, tmp_path, name):
    tally = kill_rounds(SCENARIOS[name], warm, tmp_path, kills=2, seed=1)
    assert tally.kills >= 2 and tally.rounds >= 1


@pytest.mark.parametrize(
    ("name", "sent"), [("training", signal.SIGTERM), ("sampling", signal.SIGINT), ("grading", signal.SIGTERM)]
)
def test_asked_to_stop_it_ends_with_its_state_saved(warm, tmp_path, name, sent):
    tally = kill_rounds(SCENARIOS[name], warm, tmp_path, kills=1, seed=2, sent=sent)
    assert tally.kills >= 1 and tally.rounds >= 1


def test_a_worker_process_that_is_killed_is_named_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    from opsd_eval import grading, workers
    from opsd_eval.cli import main

    scenario, whole = SCENARIOS["grading"], tmp_path / "whole"
    for folder in (whole, tmp_path / "killed"):
        folder.mkdir()
        made_up_set(folder / "set", 30, 4)
    assert main(["grade", str(whole / "set")]) == 0
    monkeypatch.setattr(grading, "SERIAL_LINES", 0)
    monkeypatch.setattr(grading, "TASK_LINES", 10)
    call, calls = workers._Worker.call, []

    def call_and_kill(worker, task):
        calls.append(task)
        if len(calls) == 5:
            worker.process.kill()
            worker.process.wait()
        return call(worker, task)

    monkeypatch.setattr(workers._Worker, "call", call_and_kill)
    command = ["grade", str(tmp_path / "killed" / "set"), "--processes", "2"]
    assert main(command) == 1
    assert "signal 9" in (said := capsys.readouterr().err) or "is gone" in said
    assert "run the same command again" in said and "Traceback" not in said
    assert 0 < len(scenario.keys(tmp_path / "killed")) < 120
    assert main(command) == 0
    assert scenario.digest(tmp_path / "killed") == scenario.digest(whole)
