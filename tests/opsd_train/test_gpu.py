"""What only a GPU can show: the tensor-core path against float64, memory, and training, resuming and sampling there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from opsd_train import head as head_module
from opsd_train.head import Head, bfloat16_terms
from opsd_train.loss import chunked_loss
from tests.opsd_train.test_loss import METHOD_IDS, METHODS, V, needed, plain, relative, states

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch")


def found_and_exact(method, dtype, *, device):
    """(value, gradient by states, by the head's weight, by its bias): ours on ``device``, plain PyTorch in float64."""
    hidden, weight = states(dtype)
    hidden = needed(hidden, method)
    offset = torch.linspace(-1, 1, len(weight), dtype=torch.float64).to(dtype)
    found = []
    for exact in (False, True):
        now = {r: (s.double() if exact else s.to(device, copy=True)) for r, s in hidden.items()}
        now["student"].requires_grad_()
        w, b = ((t.double() if exact else t.to(device, copy=True)).requires_grad_() for t in (weight, offset))
        if exact:
            one = torch.ones((len(now["student"]), 1), dtype=torch.float64)
            joined = torch.cat([w, b[:, None]], dim=1)
            loss = plain({role: torch.cat([s, one], dim=1) for role, s in now.items()}, joined, method)
        else:
            loss = chunked_loss(now, Head(w, b, V), method=method, chunk=5).loss
        loss.backward()
        found.append([loss.detach().cpu(), *(t.grad.cpu() for t in (now["student"], w, b))])  # type: ignore[union-attr]
    return found


def within_rounding(ours, exact, dtype):
    """Gradients as near to float64 as float32 arithmetic, or one rounding to bfloat16, can be."""
    for mine, theirs in zip(ours[1:], exact[1:], strict=True):
        bound = 2e-5 if dtype == torch.float32 else 1.05 * relative(theirs.to(dtype), theirs) + 1e-5
        assert relative(mine, theirs) < bound


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS, ids=METHOD_IDS)
def test_the_gpu_equals_float64_on_the_same_inputs(method, dtype):
    """Logits by tensor cores from bfloat16 factors are exact to float32; a gradient is rounded once, to its type."""
    ours, exact = found_and_exact(method, dtype, device="cuda")
    assert float(ours[0]) == pytest.approx(float(exact[0]), rel=1e-4, abs=1e-6)
    within_rounding(ours, exact, dtype)


@gpu
def test_the_gpu_holds_a_few_positions_of_a_large_vocabulary():
    """2,048 positions of 151,936 entries and four roles are 5 GB of logits; a block and its temporaries are under 1.5."""
    positions, vocab, width = 2048, 151_936, 1024
    torch.manual_seed(0)
    hidden = {r: torch.randn((positions, width), device="cuda").bfloat16() for r in ("student", "teacher", "reference", "base")}
    weight = torch.randn((vocab, width), device="cuda").mul_(width**-0.5).bfloat16()
    hidden["student"].requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    chunked_loss(hidden, Head(weight), method=METHODS[0]).loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 1.5e9


@pytest.mark.parametrize("method", METHODS[:3], ids=METHOD_IDS[:3])
def test_two_terms_give_the_gradients_of_one_float32_factor(method, monkeypatch):
    """The tensor-core path with its products done on the CPU: the same blocks, bias, padding and head gradient."""
    used = []

    def half_product(one, other, *, out, add):
        assert one.dtype == other.dtype == torch.bfloat16
        used.append(add)
        out.addmm_(one.float(), other.float()) if add else out.copy_(one.float() @ other.float())

    monkeypatch.setattr(head_module, "_half_product", half_product)
    monkeypatch.setattr(head_module, "on_tensor_cores", lambda w, dtype: w.dtype == torch.bfloat16 and dtype == torch.float32)
    ours, exact = found_and_exact(method, torch.bfloat16, device="cpu")
    assert used.count(True) >= used.count(False) > 0
    within_rounding(ours, exact, torch.bfloat16)


def test_two_bfloat16_terms_hold_sixteen_bits():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 10_000)
    terms = bfloat16_terms(values)
    gap = (values.double() - sum(t.double() for t in terms)).abs() / values.double().abs()
    assert len(terms) == 2 and float(gap.max()) < 2.0**-17
    half = values.bfloat16()
    assert bfloat16_terms(half)[0] is half and len(bfloat16_terms(half)) == 1


SMALL = {
    "data.limit": 64, "rollout.max_new_tokens": 32, "rollout.check_every": 1, "rollout.check_bound": 0.05,
    "optim.batch_size": 8, "optim.micro_batch_size": 4, "optim.steps": 4, "optim.lr": 1e-4, "run.checkpoint_every": 2,
    "run.diagnostics_every": 2, "run.diagnostics_tokens": 64,
}  # fmt: skip


def run(out, *more, devices=None, **changes):
    """The testbed recipe, a few short steps, as a command; its rows."""
    options = [str(x) for key, value in {**SMALL, **changes}.items() for x in (f"--{key}", value)]
    environment = {**os.environ} | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})
    command = [sys.executable, "-m", "opsd_train.cli", "run", "testbed", *options, "--out", str(out), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


@gpu
def test_a_run_on_the_gpu_starts_where_one_on_the_cpu_does(tmp_path):
    """Same problems, streams and weights: the first step's loss, entropy and gradient agree to float32 rounding."""
    one, other = run(tmp_path / "gpu")[0], run(tmp_path / "cpu", devices="")[0]
    assert one["n_tokens"] == other["n_tokens"]
    for key in ("loss", "entropy", "kl_base", "grad_norm"):
        assert one[key] == pytest.approx(other[key], rel=2e-3, abs=1e-6), key
    assert one["engine_gap"] < 1e-4


@gpu
def test_a_run_on_the_gpu_goes_on_from_its_checkpoint(tmp_path):
    """The step after the checkpoint, repeated, starts from the same weights and random streams."""
    whole = run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000004")
    again = run(tmp_path, "--resume")
    assert len(again) == len(whole) == 4
    for one, other in zip(whole, again, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@gpu
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_bfloat16_weights_train_on_the_gpu(tmp_path, tuning):
    """The engine and the trainer read one model: their log-probabilities differ by bfloat16 passes of other shapes."""
    changes = {"model.dtype": "bfloat16", "model.tuning": tuning, "model.gradient_checkpointing": "true"}
    found = run(tmp_path, **changes)
    assert len(found) == 4 and all(row["grad_norm"] > 0 and row["loss"] > 0 for row in found)


@gpu
def test_one_process_under_nccl_gives_the_losses_of_a_plain_run(tmp_path, monkeypatch):
    """What processes send one another must lie on their device."""
    plain_run = run(tmp_path / "plain")
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    launched = run(tmp_path / "nccl")
    assert [r["loss"] for r in launched] == pytest.approx([r["loss"] for r in plain_run], rel=1e-4)
