"""Two gloo processes under DDP give the single process's numbers for the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_train.trainer import train
from tests.opsd_train.conftest import log_rows

ROOT = Path(__file__).parents[2]


def launch(module, *arguments, processes=2):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", module, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    from opsd_train.config import TrainConfig, apply_overrides
    from tests.opsd_train.conftest import COMMON

    config = apply_overrides(TrainConfig(), ["--model.path", str(tiny_model), *COMMON.split()])
    config = apply_overrides(config, ["--optim.micro_batch_size", "2", "--run.diagnostics_tokens", "100000"])
    out = tmp_path_factory.mktemp("two")
    (out / "config.json").write_text(json.dumps(config.to_dict()))
    launch("tests.opsd_train.two_processes", out / "config.json", out)
    train(config, out / "alone")
    return out


def test_loss_and_gradient_norm_equal_the_single_process(runs):
    """Stated tolerance: relative 1e-4 over four steps of a deliberately large learning rate (1e-2)."""
    two, one = log_rows(runs / "whole"), log_rows(runs / "alone")
    assert [row["processes"] for row in two] == [2] * 4 and len(one) == 4
    for mine, theirs in zip(two, one, strict=True):
        assert mine["n_tokens"] == theirs["n_tokens"] and mine["marker_rate"] == theirs["marker_rate"]
        for key in ("loss", "grad_norm", "entropy"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-4), key
    for name, value in two[0]["diagnostics"].items():
        assert value == pytest.approx(one[0]["diagnostics"][name], rel=1e-3, abs=1e-5), name


def test_resume_in_two_processes_is_bit_identical(runs):
    assert log_rows(runs / "cut") == log_rows(runs / "whole")
    for name in ("model.safetensors", "optimizer.safetensors", "rng-00000.safetensors", "rng-00001.safetensors"):
        mine, theirs = (runs / which / "checkpoints" / "step-000004" / name for which in ("cut", "whole"))
        assert mine.read_bytes() == theirs.read_bytes(), name


def test_a_process_without_tokens_takes_part_and_adds_nothing(runs):
    row = log_rows(runs / "silent")[0]
    assert row["rollouts"] == 6 and 0 < row["n_tokens"] <= 36
    assert row["loss"] > 0 and row["grad_norm"] > 0
