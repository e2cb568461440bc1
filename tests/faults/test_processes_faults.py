"""Two training processes of which one is killed: the other ends and says why, and both go on to the same bits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.faults.killing import ROOT, environment
from tests.faults.scenarios import TRAINING, training_digest


def start_two(out, log):
    """Two processes that know each other by environment variables only: no launcher ends one for the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "opsd_train.cli", "run", "testbed", *map(str, TRAINING), "--out", str(out / "run"), "--resume"]
    shared = {**environment(), "ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with log.open("w") as file:
        return [
            subprocess.Popen(command, cwd=ROOT, env={**shared, "RANK": rank, "LOCAL_RANK": rank}, stdout=file, stderr=file)
            for rank in "01"
        ]  # fmt: skip


def ended(processes, seconds=300):
    return [process.wait(seconds) for process in processes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert ended(start_two(folder, folder / "log")) == [0, 0], (folder / "log").read_text()[-3000:]
    return training_digest(folder)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_of_two_is_killed_the_other_ends_and_says_why(whole, tmp_path, victim):
    processes, log = start_two(tmp_path, tmp_path / "log"), tmp_path / "run" / "train.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert all(process.poll() is None for process in processes), (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.02)
    os.kill(processes[victim].pid, signal.SIGKILL)
    assert processes[1 - victim].wait(120) == 3, (tmp_path / "log").read_text()[-3000:]
    said = (tmp_path / "log").read_text()
    assert "another of this run's 2 processes has ended" in said and "--resume" in said and "Traceback" not in said
    processes[victim].wait()
    assert ended(start_two(tmp_path, tmp_path / "log")) == [0, 0], (tmp_path / "log").read_text()[-3000:]
    assert training_digest(tmp_path) == whole
