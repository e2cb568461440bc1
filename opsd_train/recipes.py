"""Recipes: functions that return a complete config. Any field can be overridden on the command line.

Published ones follow the tables of arXiv 2607.02234 (purified, and its standard baseline: symmetric JSD, no clip)
and the later recipe of arXiv 2601.18734 (forward KL, clip 0.05 an entry). What these papers leave open and what no
one could check when this was written says so in ``model.unverified`` and ``data.unverified``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from opsd_train.config import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)

Recipe = Callable[[], TrainConfig]
ONE_GPU = "_one_gpu"

_HUB = "hub id from public knowledge, not looked up: check it, and pin --model.revision"
_DATA = "owner and columns of the data set are not known here: pass hf:OWNER/NAME?question=..., or jsonl:PATH?..."
_COLUMNS = "question=problem&reference=solution&answer=answer&split=train"

# name: (hub id, thinking switch of its chat template; None where the template has none and always thinks)
MODELS: dict[str, tuple[str, bool | None]] = {
    "qwen3_8b": ("Qwen/Qwen3-8B", True),
    "qwen3_4b": ("Qwen/Qwen3-4B", True),
    "r1_distill_qwen_7b": ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", None),
    "olmo_7b_thinking": ("allenai/Olmo-3-7B-Think", None),
}
DATASETS = {
    "dasd_10k": f"hf:OWNER/DASD-10K?{_COLUMNS}",
    "math_cot_20k": f"hf:OWNER/Math-CoT-20K?{_COLUMNS}",
}


def testbed() -> TrainConfig:
    """Purified on the shipped base of world hunch_r10, full fine-tuning; minutes on one CPU thread.

    Another world: ``--model.path testbed:slips_s0 --data.benchmark testbed.slips.train``.
    """
    return TrainConfig(
        model=ModelConfig(
            path="testbed:hunch_r10_s0", tuning="full", dtype="float32", gradient_checkpointing=False
        ),
        data=DataConfig(benchmark="testbed.hunch_r10.train", limit=3200, max_prompt_tokens=128),
        rollout=RolloutConfig(max_new_tokens=128, batch_size=64),
        method=MethodConfig(target="purified"),
        optim=OptimConfig(steps=100, batch_size=32, micro_batch_size=8, lr=3e-4),
        run=RunConfig(threads=1, checkpoint_every=25, base_kl="every_step", diagnostics_every=10),
    )  # fmt: skip


def smollm2_cpu() -> TrainConfig:
    """Purified on SmolLM2-135M-Instruct, LoRA, one-digit arithmetic from reasoning-gym; runs on a CPU.

    ``--model.path`` takes a folder with the weights in Hugging Face form.
    """
    return TrainConfig(
        model=ModelConfig(
            path="HuggingFaceTB/SmolLM2-135M-Instruct", dtype="float32", lora_rank=16, lora_alpha=32,
            gradient_checkpointing=False, unverified=_HUB,
        ),
        data=DataConfig(benchmark="reasoning_gym.chain_sum", limit=400, max_prompt_tokens=512),
        rollout=RolloutConfig(max_new_tokens=96, batch_size=16, check_every=5),
        optim=OptimConfig(steps=20, batch_size=8, micro_batch_size=4, lr=1e-4),
        run=RunConfig(
            threads=1, checkpoint_every=10, base_kl="every_step", diagnostics_every=5, diagnostics_tokens=512
        ),
    )  # fmt: skip


def published(model: str, dataset: str, target: str) -> TrainConfig:
    """The experiments of arXiv 2607.02234: LoRA 64, lr 5e-6, batch 32, 200 steps, 1,024 new tokens, symmetric JSD.

    Sampling (temperature 1.1, top-p .95, top-k 20) and LoRA alpha 128 are those of an independent re-implementation.
    """
    path, thinking = MODELS[model]
    return TrainConfig(
        model=ModelConfig(path=path, lora_rank=64, lora_alpha=128, gradient_checkpointing=True, unverified=_HUB),
        data=DataConfig(
            benchmark=DATASETS[dataset], max_prompt_tokens=8192, too_long="skip", student_thinking=thinking,
            teacher_thinking=thinking, unverified=_DATA,
        ),
        rollout=RolloutConfig(
            engine="vllm", temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=1024, check_every=10
        ),
        method=MethodConfig(
            target=target, divergence="jsd", weight_on_target=0.5, clip="none", beta=1.0, clip_c=10.0
        ),
        optim=OptimConfig(steps=200, batch_size=32, micro_batch_size=4, lr=5e-6),
        run=RunConfig(checkpoint_every=50, diagnostics_every=10, diagnostics_tokens=8192),
    )  # fmt: skip


def official_qwen3_1p7b() -> TrainConfig:
    """Standard OPSD, the later recipe of arXiv 2601.18734: forward KL, clip .05 an entry, lr 5e-6, gradient norm .1."""
    config = published("qwen3_8b", "math_cot_20k", "standard")
    return replace(
        config,
        model=replace(config.model, path="Qwen/Qwen3-1.7B"),
        method=replace(config.method, divergence="forward_kl", clip="per_entry", clip_value=0.05),
        optim=replace(config.optim, steps=100, max_grad_norm=0.1),
    )


def one_gpu(recipe: Recipe) -> TrainConfig:
    """The same run on one GPU: rollouts scored one at a time; the batch of a step, and every number, stays."""
    config = recipe()
    return replace(config, optim=replace(config.optim, micro_batch_size=1))


RECIPES: dict[str, Recipe] = {"testbed": testbed, "smollm2_cpu": smollm2_cpu}
RECIPES |= {
    f"{target}_{model}_{dataset}": partial(published, model, dataset, target)
    for target in ("purified", "standard")
    for model in MODELS
    for dataset in DATASETS
}
RECIPES["official_qwen3_1p7b"] = official_qwen3_1p7b
RECIPES |= {
    f"{name}{ONE_GPU}": partial(one_gpu, recipe)
    for name, recipe in list(RECIPES.items())
    if name not in ("testbed", "smollm2_cpu")
}


def describe(name: str) -> str:
    """One line about a recipe."""
    recipe = RECIPES[name]
    if not isinstance(recipe, partial):
        return (recipe.__doc__ or "").splitlines()[0]
    config = recipe()
    return (
        f"{config.method.target} on {config.model.path} and {config.data.benchmark.partition('?')[0]}: "
        f"LoRA {config.model.lora_rank}, lr {config.optim.lr:g}, {config.optim.steps} steps of "
        f"{config.optim.batch_size} (arXiv 2607.02234)"
    )
