"""Which engine samples the rollouts, and how it gets the student's weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from opsd_train.config import TrainConfig
from opsd_train.policy import Policy, resolve_path
from opsd_train.rollouts import Sampler

GPU_SHARE = 0.4  # of a GPU's memory that vLLM may take beside the trainer


def make_sampler(config: TrainConfig, policy: Policy, out: Path) -> Sampler:
    """The sampler of a run."""
    if config.rollout.engine == "transformers":
        return Sampler(_transformers(config, policy), policy.tokenizer, config)
    if config.rollout.engine == "vllm":
        sync = AdapterSync(policy, out / ".rollout_adapters" / os.environ.get("RANK", "0"))
        return Sampler(_vllm(config), policy.tokenizer, config, sync=sync)
    raise ValueError(
        f"rollouts while training run in this process: --rollout.engine transformers or vllm, not "
        f"{config.rollout.engine!r}"
    )


class AdapterSync:
    """Writes the student's adapter and makes the engine use it, under a new id, before every step's rollouts.

    ``folder`` holds the adapter in use; the one before it is removed when a new one is in place.
    """

    def __init__(self, policy: Policy, folder: Path):
        self.policy, self.folder = policy, folder
        shutil.rmtree(folder, ignore_errors=True)

    def __call__(self, engine: Any, step: int) -> None:
        """Bring the engine's weights to those of the student after ``step`` optimiser steps."""
        new = self.folder / f"step-{step:06d}"
        self.policy.model.save_pretrained(new)  # type: ignore[operator]
        engine.use_adapter(new)
        for old in self.folder.iterdir():
            if old != new:
                shutil.rmtree(old)


def _transformers(config: TrainConfig, policy: Policy) -> Any:
    """The student's own model object: nothing to bring up to date."""
    from opsd_eval.engines.transformers_engine import TransformersEngine

    return TransformersEngine(policy.model, policy.tokenizer, batch_size=config.rollout.batch_size)  # type: ignore[arg-type]


def _vllm(config: TrainConfig) -> Any:
    """An engine with the base's weights and room for the adapter."""
    import torch

    from opsd_eval.engines.vllm_engine import VllmEngine

    if config.model.tuning != "lora":
        raise ValueError(
            "--rollout.engine vllm takes the student's weights as an adapter: use --model.tuning lora, or "
            "--rollout.engine transformers"
        )
    options: dict[str, Any] = {"gpu_memory_utilization": GPU_SHARE} if torch.cuda.is_available() else {}
    return VllmEngine(
        resolve_path(config.model.path), adapters=True, max_lora_rank=max(8, config.model.lora_rank),
        batch_size=config.rollout.batch_size, dtype=config.model.dtype,
        max_model_len=config.data.max_prompt_tokens + config.rollout.max_new_tokens, **options,
    )  # fmt: skip
