"""Checkpoints: everything needed to go on exactly, whole or absent, without pickle.

``checkpoints/step-000100/`` holds the model in Hugging Face form (weights or adapter, tokenizer), ``optimizer`` and
``ema`` tensors, the random state of every process, and ``checkpoint.json``: step, config hash, size and SHA-256 of
every file (:mod:`opsd_eval.whole`).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from opsd_eval.records import write_json
from opsd_eval.whole import what_is_broken
from opsd_train.policy import Policy
from opsd_train.zero import Zero2

_NAME = re.compile(r"step-(\d{6,})")


def checkpoint_path(out: Path, step: int) -> Path:
    """Folder of one step's checkpoint inside a run folder."""
    return out / "checkpoints" / f"step-{step:06d}"


def checkpoint_steps(out: Path) -> list[int]:
    """Steps that have a checkpoint folder, ascending; not yet checked for wholeness."""
    folder = out / "checkpoints"
    names = (p.name for p in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def newest_whole(out: Path) -> Path | None:
    """The newest checkpoint whose files are all there, with right sizes and checksums; broken ones are reported."""
    for step in reversed(checkpoint_steps(out)):
        folder = checkpoint_path(out, step)
        fault = what_is_broken(folder)
        if fault is None:
            return folder
        print(f"{folder}: not usable ({fault}); looking for an older one", file=sys.stderr)
    return None


@dataclass(frozen=True)
class Tensors:
    """What a checkpoint holds of a run: trained weights, optimiser moments (``parameter|key``) and EMA."""

    model: dict[str, Tensor]
    moments: dict[str, Tensor]
    ema: dict[str, Tensor] | None


def collect_trained(policy: Policy) -> dict[str, Tensor]:
    """The trained weights by name, sharded ones made whole; every process must call it."""
    return {name: _whole(tensor) for name, tensor in policy.trained().items()}


def collect(policy: Policy, optimizer: torch.optim.Optimizer | Zero2) -> Tensors:
    """Gather the tensors to be saved; every process must call it, sharded tensors are made whole."""
    full = policy.initial is not None
    model = {n: _whole(t) for n, t in policy.model.state_dict().items()} if full else collect_trained(policy)
    names = {id(parameter): name for name, parameter in policy.trained().items()}
    moments = optimizer.moments() if isinstance(optimizer, Zero2) else {
        f"{names[id(parameter)]}|{key}": _whole(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }  # fmt: skip
    ema = None if policy.ema is None else {name: _whole(tensor) for name, tensor in policy.ema.items()}
    return Tensors(model, moments, ema)


def write(folder: Path, policy: Policy, tensors: Tensors, random_states: Sequence[Mapping[str, Tensor]]) -> None:
    """Fill a checkpoint folder; model (or adapter) and tokenizer are loadable with ``from_pretrained``."""
    from safetensors.torch import save_file
    from transformers.utils import logging

    logging.disable_progress_bar()  # one of its own would tear the training bar
    policy.model.save_pretrained(folder, state_dict=tensors.model)  # type: ignore[operator]
    logging.enable_progress_bar()
    policy.tokenizer.save_pretrained(folder)
    if policy.initial is None:  # an adapter: whoever loads it can check that it meets the base it was trained on
        write_json(folder / "base.json", policy.source)
    save_file({name: t.contiguous() for name, t in tensors.moments.items()}, folder / "optimizer.safetensors")
    if tensors.ema is not None:
        save_file({name: t.contiguous() for name, t in tensors.ema.items()}, folder / "ema.safetensors")
    for process, state in enumerate(random_states):
        save_file(dict(state), folder / f"rng-{process:05d}.safetensors")


def load_model(folder: Path, policy: Policy) -> None:
    """Put a checkpoint's weights back into the policy's model, bit for bit."""
    from safetensors.torch import load_file

    if (folder / "adapter_model.safetensors").exists():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(policy.model, load_file(folder / "adapter_model.safetensors"))
        return
    from transformers import AutoModelForCausalLM

    dtype = next(iter(policy.trained().values())).dtype
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).state_dict()
    with torch.no_grad():
        for name, tensor in policy.model.state_dict().items():
            _copy_whole(tensor, saved[name])


def load_state(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer | Zero2) -> None:
    """Put optimiser moments and EMA back."""
    from safetensors.torch import load_file

    moments = load_file(folder / "optimizer.safetensors")
    if isinstance(optimizer, Zero2):
        optimizer.load(moments)
        moments = {}
    parameters = policy.trained()
    for name, value in moments.items():
        parameter, key = name.rsplit("|", 1)
        like = parameters[parameter]
        state = optimizer.state[like]  # type: ignore[union-attr]
        if value.shape == like.shape:
            state[key] = torch.zeros_like(like.detach(), dtype=value.dtype)
            _copy_whole(state[key], value)
        else:  # Adam's step counter
            state[key] = value
    if policy.ema is not None:
        with torch.no_grad():
            for name, value in load_file(folder / "ema.safetensors").items():
                _copy_whole(policy.ema[name], value)


def rng_state() -> dict[str, Tensor]:
    """Every random generator of this process: torch (CPU and accelerators), Python."""
    _, words, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([float("nan") if gauss is None else gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state |= {f"cuda_{i}": t for i, t in enumerate(torch.cuda.get_rng_state_all())}
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    gauss = float(state["python_gauss"][0])
    random.setstate((3, tuple(state["python"].tolist()), None if gauss != gauss else gauss))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state[f"cuda_{i}"] for i in range(torch.cuda.device_count())])


def load_rng(folder: Path, process: int) -> None:
    """Restore one process's random state; a checkpoint of fewer processes has none for the others."""
    from safetensors.torch import load_file

    path = folder / f"rng-{process:05d}.safetensors"
    if not path.exists():
        raise ValueError(f"{folder} was written by fewer processes: resume with as many as before")
    set_rng_state(load_file(path))


def _whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one; a collective call under FSDP."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def _copy_whole(into: Tensor, value: Tensor) -> None:
    """Copy a full tensor into a plain or a sharded one."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(into, DTensor):
        value = distribute_tensor(value.to(into.device), into.device_mesh, into.placements)
    with torch.no_grad():
        into.copy_(value)
