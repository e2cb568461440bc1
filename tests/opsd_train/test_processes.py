"""Two gloo processes, under DDP or sharded, give the single process's numbers for the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opsd_train.config import TrainConfig, apply_overrides
from opsd_train.trainer import train
from tests.opsd_train.conftest import COMMON, log_rows

ROOT = Path(__file__).parents[2]


def launch(module, *arguments, processes=2, **more):
    environment = {
        **os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, "-m", module, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def start(tiny_model, out, *options, **environment):
    """Run ``two_processes.py`` in two processes and the same config in this one; returns the folder of all runs."""
    config = apply_overrides(TrainConfig(), ["--model.path", str(tiny_model), *COMMON.split()])
    config = apply_overrides(config, ["--optim.micro_batch_size", "2", "--run.diagnostics_tokens", "100000", *options])
    if "ACCELERATE_USE_DEEPSPEED" in environment:
        assert (APART / "deepspeed").is_dir(), "DeepSpeed is not there: make test-real installs it into .venv/apart"
    (out / "config.json").write_text(json.dumps(config.to_dict()))
    launch("tests.opsd_train.two_processes", out / "config.json", out, **environment)
    train(apply_overrides(config, ["--run.sharding", "none"]), out / "alone")
    return out


SHARDED = ("--run.sharding", "full")
AS_FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}  # fsdp.yaml's
APART = Path(sys.prefix) / "apart"  # where `make test-real` puts DeepSpeed
AS_DEEPSPEED = {  # deepspeed_zero2.yaml's
    "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "PYTHONPATH": f"{ROOT}:{APART}",
}  # fmt: skip
LORA = ("--model.tuning", "lora", "--model.lora_rank", "4", "--model.gradient_checkpointing", "true")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(((), {}), id="ddp"),
        pytest.param((SHARDED, {}), id="sharded", marks=pytest.mark.real),
        pytest.param(((*LORA, "--method.teacher_mode", "live"), AS_FSDP), id="fsdp_lora", marks=pytest.mark.real),
        pytest.param((LORA, {}), id="ddp_lora", marks=pytest.mark.real),
        pytest.param((("--method.teacher_mode", "ema"), AS_DEEPSPEED), id="zero2", marks=pytest.mark.real),
        pytest.param((LORA, AS_DEEPSPEED), id="zero2_lora", marks=pytest.mark.real),
    ],
)
def runs(request, tiny_model, tmp_path_factory):
    options, environment = request.param
    return start(tiny_model, tmp_path_factory.mktemp("two"), *options, **environment)


def test_loss_and_gradient_norm_equal_the_single_process(runs):
    """Stated tolerance: relative 1e-4 over four steps of a deliberately large learning rate (1e-2)."""
    two, one = log_rows(runs / "whole"), log_rows(runs / "alone")
    assert [row["processes"] for row in two] == [2] * 4 and len(one) == 4
    for mine, theirs in zip(two, one, strict=True):
        assert mine["n_tokens"] == theirs["n_tokens"] and mine["marker_rate"] == theirs["marker_rate"]
        for key in ("loss", "grad_norm", "entropy"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-4), key
    for name, value in two[0]["diagnostics"].items():
        assert value == pytest.approx(one[0]["diagnostics"][name], rel=1e-3, abs=1e-5, nan_ok=True), name


def test_resume_in_two_processes_is_bit_identical(runs):
    assert log_rows(runs / "cut") == log_rows(runs / "whole")
    mine, theirs = (runs / which / "checkpoints" / "step-000004" for which in ("cut", "whole"))
    names = sorted(p.name for p in theirs.glob("*.safetensors") if p.name != "ema.safetensors")
    assert len(names) == 4 and names[-2:] == ["rng-00000.safetensors", "rng-00001.safetensors"]
    for name in sorted(p.name for p in theirs.glob("*.safetensors")):
        assert (mine / name).read_bytes() == (theirs / name).read_bytes(), name


def test_a_process_without_tokens_takes_part_and_adds_nothing(runs):
    row = log_rows(runs / "silent")[0]
    assert row["rollouts"] == 6 and 0 < row["n_tokens"] <= 36
    assert row["loss"] > 0 and row["grad_norm"] > 0


def test_shards_are_real(runs):
    """World size 2, and each process holds about half of the moments; under FSDP of the parameters, sharded, too."""
    path = runs / "shards.jsonl"
    sharding = json.loads((runs / "whole" / "run.json").read_text())["config"]["run"]["sharding"]
    assert path.exists() == (sharding != "none")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert {row["rank"] for row in rows} == (set() if sharding == "none" else {0, 1})
    for row in rows:
        assert row["world"] == 2 and 0.4 < row["moments"] < 0.6
        assert row["sharded"] == (sharding == "full")
        assert 0.4 < row["share"] < 0.6 if row["sharded"] else row["share"] == 1


@pytest.mark.real
def test_each_process_samples_with_a_vllm_engine_of_its_own(tmp_path):
    options = """--rollout.engine vllm --model.tuning lora --model.lora_rank 8 --data.limit 16 --optim.steps 2
    --optim.batch_size 4 --optim.lr 0.02 --rollout.max_new_tokens 32 --rollout.check_every 1 --rollout.check_bound 0.02
    --run.diagnostics_every 0"""
    launch("opsd_train.cli", "run", "testbed", "--out", tmp_path / "run", *options.split())
    rows = log_rows(tmp_path / "run")
    assert [row["processes"] for row in rows] == [2, 2] and all(row["rollouts"] == 4 for row in rows)
    assert max(row["engine_gap"] for row in rows) < 0.01 < rows[1]["kl_base"]
