"""Weights, gradients and optimiser state spread over processes, with torch's ``fully_shard`` on accelerate's devices.

Written against torch itself because accelerate 1.15 turns a request for FSDP on CPU into DDP without a word, and what
cannot run in a test cannot be trusted. Scoring gathers one layer at a time; sampling in process and diagnoses gather
the whole model (use a rollout engine of its own, and no diagnostics, where it does not fit).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from opsd_train.policy import Policy
from opsd_train.scoring import backbone_of


def shard(policy: Policy, device: torch.device) -> None:
    """Shard the student and, where there is one, the frozen copy, layer by layer, over all processes."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for root in policy.roots():
        decoder: Any = backbone_of(root.model)
        for layer in decoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(root, mesh=mesh)
        with torch.no_grad():
            root(lambda model: None)  # tells torch which module is the root, before any layer runs by itself
        root.reshard()
    policy.sharded = True


@contextmanager
def gathered(policy: Policy) -> Iterator[None]:
    """All weights whole on every process inside the block, where processes then need not keep in step."""
    if not policy.sharded:
        yield
        return
    modules = [module for root in policy.roots() for module in root.modules() if isinstance(module, FSDPModule)]
    layers = [module for module in modules if module not in policy.roots()]
    for module in layers:
        module.set_reshard_after_forward(False, recurse=False)
    for module in modules:
        module.unshard()
    policy.gathered = True
    try:
        yield
    finally:
        policy.gathered = False
        for module in layers:
            module.set_reshard_after_forward(True, recurse=False)
        for module in modules:
            module.reshard()


def local_share(model: nn.Module) -> float:
    """Share of a model's parameters that this process holds: 1 unless it is sharded."""
    from torch.distributed.tensor import DTensor

    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters())
    return held / sum(p.numel() for p in model.parameters())
