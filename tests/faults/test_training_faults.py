"""A run folder found in disorder: the newest whole checkpoint is found, and training goes on to the same numbers."""

from __future__ import annotations

import shutil

import pytest

from opsd_train.trainer import train
from tests.faults.scenarios import TRAINING, training_digest

LAST = "step-000008"


def go_on(folder):
    from opsd_train.cli import build_config

    train(build_config("testbed", [*map(str, TRAINING)]), folder / "run", resume=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    go_on(folder)
    return folder


@pytest.fixture
def copy(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted / "run", tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(
    ("victim", "damage"),
    [("model.safetensors", "truncated"), ("optimizer.safetensors", "flipped"), ("ema.safetensors", "missing"),
     ("checkpoint.json", "truncated")],
)  # fmt: skip
def test_a_broken_last_checkpoint_is_passed_over(uninterrupted, copy, victim, damage, capsys):
    path = copy / "run" / "checkpoints" / LAST / victim
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content[:-1] + b"?")
    go_on(copy)
    assert "not usable" in capsys.readouterr().err
    assert training_digest(copy) == training_digest(uninterrupted)


def test_a_torn_last_log_line_and_a_half_written_checkpoint_are_mended(uninterrupted, copy):
    run = copy / "run"
    shutil.move(run / "checkpoints" / LAST, run / "checkpoints" / f".{LAST}.partial")
    (run / "checkpoints" / f".{LAST}.partial" / "model.safetensors").write_bytes(b"half")
    log = run / "train.jsonl"
    log.write_bytes(log.read_bytes()[:-30])
    go_on(copy)
    assert training_digest(copy) == training_digest(uninterrupted)
    assert not list((run / "checkpoints").glob(".*"))
