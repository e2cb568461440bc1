"""Cycles of training and evaluation in one process, in a short form; ``python -m tests.faults.soak`` is the full one."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.faults.killing import ROOT, environment


def test_cycles_of_training_and_evaluation_leave_no_file_open_and_no_memory_held():
    command = [sys.executable, "-m", "tests.faults.soak", "--cycles", "6", "--commands", "0", "--most-mib", "4"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads(done.stdout)["files_grown"] == 0
