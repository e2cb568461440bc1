"""Which engine samples the rollouts, and how it gets the student's weights before every step.

The transformers engine decodes with the student's own model object. vLLM and a server get the adapter as files, under
a new name each step, so that no cache can mistake it for an older one; full fine-tuning is therefore theirs not to do.
Whether the weights really arrived is checked by ``--rollout.check_every``: the engine's log-probabilities of what it
sampled against the trainer's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.testbed.bases import resolve_path
from opsd_train.checkpoint import collect_trained
from opsd_train.config import TrainConfig
from opsd_train.policy import Policy
from opsd_train.rollouts import Sampler

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the sizes that vLLM reserves room for


def make_sampler(config: TrainConfig, policy: Policy, out: Path) -> Sampler:
    """The sampler of a run; engines outside this process's model come with an :class:`AdapterSync`."""
    name = config.rollout.engine
    if name == "transformers":
        return Sampler(_transformers(config, policy), policy.tokenizer, config)
    if config.model.tuning != "lora":
        raise ValueError(
            f"the {name} engine gets the student's weights as a LoRA adapter: choose --model.tuning lora, or "
            "--rollout.engine transformers for full fine-tuning"
        )
    engine = _vllm(config) if name == "vllm" else _server(config)
    sync = AdapterSync(policy, out / ".adapters", release=[engine.close])
    return Sampler(engine, policy.tokenizer, config, sync=sync)


class AdapterSync:
    """Writes the student's adapter into a new folder and has the engine use it; earlier folders are removed."""

    def __init__(self, policy: Policy, folder: Path, *, release: Sequence[Callable[[], None]] = ()):
        self.policy, self.release = policy, release
        self.folder = folder / f"process-{os.environ.get('RANK', '0')}"
        shutil.rmtree(self.folder, ignore_errors=True)

    def __call__(self, engine: Any, step: int) -> None:
        """Bring the engine's weights to those after ``step`` optimiser steps; every process must call it."""
        target = self.folder / f"step-{step:06d}"
        target.mkdir(parents=True)
        self.policy.model.save_pretrained(target, state_dict=collect_trained(self.policy))  # type: ignore[operator]
        engine.use_adapter(target)
        for old in self.folder.iterdir():
            if old != target:
                shutil.rmtree(old)

    def close(self) -> None:
        """Remove the files, and release the engine where it is ours."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for release in self.release:
            release()


def _transformers(config: TrainConfig, policy: Policy) -> Any:
    """The student's own model object: nothing to bring up to date."""
    from opsd_eval.engines.transformers_engine import TransformersEngine

    return TransformersEngine(policy.model, policy.tokenizer, batch_size=config.rollout.batch_size)  # type: ignore[arg-type]


def _vllm(config: TrainConfig) -> Any:
    """The vLLM engine in this process, beside the trainer, with room for two adapters.

    Left to itself, the engine of every process would take the first GPU; ``external_launcher`` takes the launcher's.
    """
    import torch

    from opsd_eval.engines import load_engine

    model, rollout = config.model, config.rollout
    options: dict[str, Any] = {"max_model_len": config.data.max_prompt_tokens + rollout.max_new_tokens}
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # one engine a process, on the process's own device
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        options["distributed_executor_backend"] = "external_launcher"
    if torch.cuda.is_available():
        options |= {"gpu_memory_utilization": rollout.gpu_memory_share}
    if model.revision:
        options |= {"revision": model.revision, "tokenizer_revision": model.revision}
    if model.lora_rank > _LORA_RANKS[-1]:
        raise ValueError(f"--model.lora_rank {model.lora_rank} is more than vLLM serves; at most {_LORA_RANKS[-1]}")
    return load_engine(
        "vllm", resolve_path(model.path), adapters=True, batch_size=rollout.batch_size, dtype=model.dtype,
        max_lora_rank=next(rank for rank in _LORA_RANKS if rank >= model.lora_rank),
        trust_remote_code=model.trust_remote_code, **options,
    )  # fmt: skip


def _server(config: TrainConfig) -> Any:
    """A running server of the base model, on a disk that shows it the run folder, with run-time adapters allowed."""
    from opsd_eval.engines import load_engine

    path = resolve_path(config.model.path)
    return load_engine(
        "server", config.rollout.server_model or path, url=config.rollout.server_url, tokenizer=path,
        batch_size=config.rollout.batch_size,
    )  # fmt: skip
