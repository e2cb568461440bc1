"""Which engine samples the rollouts, and how it gets the student's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsd_train.config import TrainConfig
from opsd_train.policy import Policy
from opsd_train.rollouts import Sampler


def make_sampler(config: TrainConfig, policy: Policy, out: Path) -> Sampler:
    """The sampler of a run."""
    if config.rollout.engine != "transformers":
        raise ValueError(f"rollouts by the engine {config.rollout.engine!r} are not wired yet: use transformers")
    return Sampler(_transformers(config, policy), policy.tokenizer, config)


def _transformers(config: TrainConfig, policy: Policy) -> Any:
    """The student's own model object: nothing to bring up to date."""
    from opsd_eval.engines.transformers_engine import TransformersEngine

    return TransformersEngine(policy.model, policy.tokenizer, batch_size=config.rollout.batch_size)  # type: ignore[arg-type]
