"""The shortest run on SmolLM2 that still samples, scores, updates and saves."""

from __future__ import annotations

from opsd_train.config import TrainConfig, apply_overrides
from opsd_train.recipes import RECIPES

SUMS = "reasoning_gym.chain_sum.num_terms=0+num_digits=0"


def short_config(folder, *overrides: str) -> TrainConfig:
    sizes = [
        "--model.path", str(folder), "--data.benchmark", SUMS, "--data.limit", "8", "--rollout.max_new_tokens", "12",
        "--optim.steps", "2", "--optim.batch_size", "2", "--optim.micro_batch_size", "2", "--rollout.check_every", "1",
        "--rollout.check_bound", "0.001", "--run.diagnostics_tokens", "16", "--model.lora_rank", "8",
    ]  # fmt: skip
    return apply_overrides(RECIPES["smollm2_cpu"](), [*sizes, *overrides])
