"""Cycles of training and evaluation in one process, in a short form; ``python -m tests.faults.soak`` is the full one."""

from __future__ import annotations

import json


def test_cycles_of_training_and_evaluation_leave_no_file_open_and_no_memory_held(warm, tmp_path):
    log = tmp_path / "log"
    warm.start("tests.faults.soak", ["--cycles", 6, "--commands", 0, "--most-mib", 4], log=log, watch=tmp_path)
    code, said = warm.code(seconds=600), log.read_text()
    assert code == 0, said[-6000:]
    assert json.loads(said)["files_grown"] == 0
