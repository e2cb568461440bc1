"""Two training processes of which one is killed: the other ends and says why, and both go on to the same bits."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.faults.killing import runs
from tests.faults.scenarios import TRAINING, training_digest


def start_two(warm, out):
    """Two processes that know each other by environment variables only: no launcher ends one for the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, log = ["run", "testbed", *TRAINING, "--out", out / "run", "--resume"], out / "log"
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log.unlink(missing_ok=True)
    return [
        warm.start("opsd_train.cli", command, log=log, watch=out, variables={**shared, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]  # fmt: skip


def to_their_end(warm, out):
    """What two processes leave that nobody disturbs."""
    assert [warm.code(pid, 300) for pid in start_two(warm, out)] == [0, 0], (out / "log").read_text()[-3000:]
    return training_digest(out)


@pytest.fixture(scope="module")
def whole(warm, tmp_path_factory):
    return to_their_end(warm, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_of_two_is_killed_the_other_ends_and_says_why(warm, whole, tmp_path, victim):
    processes, log = start_two(warm, tmp_path), tmp_path / "run" / "train.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
        assert all(map(runs, processes)), (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.005)
    os.kill(processes[victim], signal.SIGKILL)
    assert warm.code(processes[1 - victim], 120) == 3, (tmp_path / "log").read_text()[-3000:]
    said = (tmp_path / "log").read_text()
    assert "another of this run's 2 processes has ended" in said and "--resume" in said and "Traceback" not in said
    assert warm.code(processes[victim]) == -signal.SIGKILL
    assert to_their_end(warm, tmp_path) == whole
