"""Hyper-parameters of published recipes against the tables of the papers (arXiv 2607.02234, 2601.18734)."""

import pytest

from opsd_train.config import TrainConfig, flatten, validate
from opsd_train.recipes import ONE_GPU, RECIPES, describe

PUBLISHED = [name for name in RECIPES if name.startswith(("purified_", "standard_")) and not name.endswith(ONE_GPU)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_valid(name):
    config = RECIPES[name]()
    assert validate(config) == config and TrainConfig.from_dict(config.to_dict()) == config
    assert describe(name)


def test_every_model_and_data_set_of_the_paper_in_both_arms():
    assert len(PUBLISHED) == 2 * 4 * 2
    pairs = {(RECIPES[n]().model.path, RECIPES[n]().data.benchmark, RECIPES[n]().method.target) for n in PUBLISHED}
    assert len(pairs) == 16


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_hyper_parameters(name):
    config = RECIPES[name]()
    table = {
        "model.tuning": "lora", "model.lora_rank": 64, "model.lora_alpha": 128, "model.gradient_checkpointing": True,
        "optim.lr": 5e-6, "optim.batch_size": 32, "optim.steps": 200, "run.checkpoint_every": 50,
        "rollout.engine": "vllm", "rollout.max_new_tokens": 1024, "rollout.temperature": 1.1, "rollout.top_p": 0.95,
        "rollout.top_k": 20, "method.divergence": "jsd", "method.weight_on_target": 0.5, "method.clip": "none",
        "method.context": "reference", "method.teacher_mode": "frozen", "method.target": name.partition("_")[0],
        "method.beta": 1.0, "method.clip_c": 10.0,
    }  # fmt: skip
    flat = flatten(config)
    assert {key: flat[key] for key in table} == table
    assert config.model.unverified and config.data.unverified


def test_official_recipe():
    flat = flatten(RECIPES["official_qwen3_1p7b"]())
    table = {
        "model.path": "Qwen/Qwen3-1.7B", "method.target": "standard", "method.divergence": "forward_kl",
        "method.clip": "per_entry", "method.clip_value": 0.05, "optim.lr": 5e-6, "optim.max_grad_norm": 0.1,
        "optim.steps": 100, "optim.batch_size": 32, "rollout.max_new_tokens": 1024, "rollout.temperature": 1.1,
        "rollout.top_p": 0.95, "rollout.top_k": 20, "data.student_thinking": True, "data.teacher_thinking": True,
        "model.lora_rank": 64,
    }  # fmt: skip
    assert {key: flat[key] for key in table} == table


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith(ONE_GPU)])
def test_one_gpu_variants_keep_the_batch(name):
    one, many = flatten(RECIPES[name]()), flatten(RECIPES[name.removesuffix(ONE_GPU)]())
    assert {key for key in one if one[key] != many[key]} == {"optim.micro_batch_size"}
    assert one["optim.batch_size"] == 32


def test_testbed_recipe_runs_on_a_shipped_base():
    config = RECIPES["testbed"]()
    assert config.model.path == "testbed:hunch_r10_s0" and config.data.benchmark == "testbed.hunch_r10.train"
    assert config.model.tuning == "full" and config.method.target == "purified"
