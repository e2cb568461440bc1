"""Training killed at random moments and resumed equals training that was never interrupted, bit for bit on CPU."""

from __future__ import annotations

import shutil
import signal
import time

import pytest

from opsd_eval.records import read_jsonl
from tests.faults.killing import run, run_with_kills

TINY = (
    "--optim.steps", 6, "--optim.batch_size", 4, "--optim.micro_batch_size", 4, "--run.checkpoint_every", 2,
    "--rollout.max_new_tokens", 24, "--data.limit", 64, "--run.diagnostics_every", 3, "--run.diagnostics_tokens", 64,
    "--method.teacher_mode", "ema",
)  # fmt: skip
STEPS = ("step-000002", "step-000004", "step-000006")


def curve(out):
    """The log without what a clock decides."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(out / "train.jsonl")]


def weights(out, step=STEPS[-1]):
    return {p.name: p.read_bytes() for p in sorted((out / "checkpoints" / step).glob("*.safetensors"))}


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """The uninterrupted run and the seconds it took: signals are sent within that time, whatever the machine."""
    out = tmp_path_factory.mktemp("whole") / "run"
    started = time.perf_counter()
    run("opsd_train.cli", "run", "testbed", *TINY, "--out", out)
    return out, time.perf_counter() - started


@pytest.fixture(scope="module")
def uninterrupted(timed):
    out = timed[0]
    assert [row["step"] for row in curve(out)] == [1, 2, 3, 4, 5, 6]
    return out


def assert_same(out, reference):
    assert curve(out) == curve(reference)
    assert weights(out) == weights(reference) and weights(out)
    leftovers = {p.name for p in (out / "checkpoints").iterdir()} - set(STEPS)
    assert not leftovers, f"half-written checkpoints were left behind: {leftovers}"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_sigkill_anywhere(uninterrupted, timed, tmp_path, seed):
    kills = 3 if seed == 0 else 17  # 3 in the short form; the slow form makes it 50 and more
    met = run_with_kills(
        "opsd_train.cli", "run", "testbed", *TINY, "--out", tmp_path / "run", resume=["--resume"],
        kills=kills, span=(0.3 * timed[1], 0.9 * timed[1]), seed=seed, first_when=tmp_path / "run" / "train.jsonl",
    )  # fmt: skip
    assert met >= 1, "no signal met a live process: the test proved nothing"
    assert_same(tmp_path / "run", uninterrupted)


def test_sigterm_saves_and_resumes(uninterrupted, timed, tmp_path):
    met = run_with_kills(
        "opsd_train.cli", "run", "testbed", *TINY, "--out", tmp_path / "run", resume=["--resume"],
        kills=1, span=(0.7 * timed[1], 0.8 * timed[1]), sent=signal.SIGTERM,
    )  # fmt: skip
    assert met in (0, 1)
    assert_same_curve(tmp_path / "run", uninterrupted)


def assert_same_curve(out, reference):
    """SIGTERM may add a checkpoint of its own; the numbers are those of the uninterrupted run."""
    assert curve(out) == curve(reference)
    assert weights(out) == weights(reference)


def test_newest_whole_checkpoint_is_found_when_the_last_is_broken(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    broken = next((out / "checkpoints" / STEPS[-1]).glob("*.safetensors"))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    run("opsd_train.cli", "run", "testbed", *TINY, "--out", out, "--resume")
    assert curve(out) == curve(uninterrupted)
    assert weights(out) == weights(uninterrupted)


def test_torn_last_log_line_is_mended(uninterrupted, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "checkpoints" / STEPS[-1])
    log = out / "train.jsonl"
    log.write_bytes(log.read_bytes()[:-30])
    run("opsd_train.cli", "run", "testbed", *TINY, "--out", out, "--resume")
    assert curve(out) == curve(uninterrupted)
