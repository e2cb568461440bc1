"""DeepSpeed's ZeRO-2: gradients and optimiser moments spread over processes, weights whole on each.

accelerate makes the engine; its own wrapper steps inside ``backward``, before anyone could look at the gradients, so
backward pass, norm and update are called apart here. Moments are written whole, under the parameters' names, in the
same file as without DeepSpeed. One precision only: DeepSpeed would cast a bfloat16 base and a float32 adapter to one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opsd_train.policy import Policy

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero2:
    """The student inside DeepSpeed's engine, and AdamW over this process's share of the trained weights."""

    def __init__(self, accelerator: Any, policy: Policy, optimizer: torch.optim.Optimizer, *, max_grad_norm: float):
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        self.policy = policy
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1,  # counted by the trainer, not by DeepSpeed
            gradient_clipping=max_grad_norm,
        )  # fmt: skip
        self.engine, self.optimizer = accelerator.prepare(policy.inside, optimizer)

    @property
    def _zero(self) -> Any:
        return self.engine.optimizer

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients, averaged over processes; ``last``: no other follows in this step."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss)

    def gradient_norm(self) -> float:
        """Norm of the step's gradient over all processes, before clipping; NaN where it is not finite."""
        norm = float(self._zero.scaled_global_norm())
        return norm if norm >= 0 else math.nan  # DeepSpeed writes -1 for infinite and undefined ones

    def step(self) -> None:
        """Clip, update this process's share, and gather the weights."""
        self.engine.step()

    def moments(self) -> dict[str, Tensor]:
        """The whole moments as ``parameter|key``, and Adam's counter; every process must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        count = next(iter(self._zero.optimizer.state.values()))["step"]
        found: dict[str, Tensor] = {}
        for name, parameter in self.policy.trained().items():
            found |= {f"{name}|{key}": safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}  # type: ignore[misc]
            found[f"{name}|step"] = count.detach().cpu().clone()
        return found

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put the moments of a checkpoint back, each process its share."""
        from deepspeed.utils import safe_set_full_optimizer_state

        count = next(value for name, value in saved.items() if name.endswith("|step"))
        for share in self._zero.single_partition_of_fp32_groups:
            zeros = {key: torch.zeros_like(share.detach()) for key in _MOMENTS}
            self._zero.optimizer.state[share] = {"step": count.clone(), **zeros}
        self._zero._lazy_init_hp_params_optimizer_state()  # what its own first step does: names the shares
        for name, parameter in self.policy.trained().items():
            for key in _MOMENTS:
                safe_set_full_optimizer_state(parameter, saved[f"{name}|{key}"].to(parameter.device), key)
