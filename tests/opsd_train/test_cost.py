"""The cost sheet against torch's FLOP counter and against what autograd really keeps, on small shapes."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from opsd_train import cli
from opsd_train.config import MethodConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from opsd_train.cost import (
    GPUS,
    SHAPES,
    Lengths,
    Shape,
    activation_bytes,
    adapter_flops,
    cost_sheet,
    head_flops,
    layer_bytes_per_token,
    loss_flops,
    purified_over_standard,
    rollout_flops,
    scoring_flops,
    shape_of,
    step_cost,
    student_flops,
)
from opsd_train.objective import Batch, loss_method, student_loss
from opsd_train.policy import Inside, Policy, load_policy, load_tokenizer
from opsd_train.recipes import ONE_GPU, RECIPES
from opsd_train.rollouts import Rollout
from opsd_train.scoring import completion_hidden

SHAPE = Shape(64, 6, 4, 2, 32, 96, 0, True)
LENGTHS = Lengths(question=7, reference=12, completion=21)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from opsd_eval.testbed.vocabulary import build_tokenizer
    from opsd_train.pretrain import PretrainConfig, build_model

    path, tokenizer = tmp_path_factory.mktemp("cost"), build_tokenizer()
    build_model(tokenizer, PretrainConfig(hidden=64, layers=6, heads=4, kv_heads=2, head_dim=32, mlp=96), seed=0
                ).save_pretrained(path)  # fmt: skip
    tokenizer.save_pretrained(path)
    return path


def setting(folder, **model) -> tuple[TrainConfig, Shape, Policy, list[Rollout]]:
    options = {"dtype": "float32", "attention": "eager", "gradient_checkpointing": False, "lora_rank": 4, **model}
    config = TrainConfig(
        model=ModelConfig(path=str(folder), **options), method=MethodConfig(target="purified"),
        optim=OptimConfig(batch_size=3, micro_batch_size=3), run=RunConfig(base_kl="every_step"),
    )  # fmt: skip
    policy = load_policy(config.model, config.method, load_tokenizer(config.model), seed=0)
    roles = ("student", "teacher", "reference", "base")
    prompts = {role: [1] * LENGTHS.prompt(role) for role in roles}
    rollouts = [Rollout(f"p{i}", 0, (2,) * LENGTHS.completion, prompts, "length", "") for i in range(3)]
    return config, replace(SHAPE, vocabulary=policy.vocab_size), policy, rollouts


def counted(function):
    with FlopCounterMode(display=False) as counter:
        value = function()
    return counter.get_total_flops(), value


def test_shape_is_read_from_the_model(folder):
    config, shape, policy, _ = setting(folder, tuning="full")
    assert shape_of(config)[0] == replace(shape, vocabulary=policy.model.config.vocab_size)
    assert shape.body + shape.hidden * policy.model.config.vocab_size == pytest.approx(
        sum(p.numel() for p in policy.model.parameters()), rel=0.01
    )
    adapted = setting(folder)[2]
    assert SHAPE.lora(4) == sum(p.numel() for p in adapted.trained().values())


@pytest.mark.parametrize("role", ["student", "teacher", "reference", "base"])
def test_a_frozen_pass_counts_exactly(folder, role):
    _, shape, policy, rollouts = setting(folder, tuning="full")
    with torch.no_grad():
        measured, _ = counted(
            lambda: completion_hidden(policy.model, [r.prompts[role] for r in rollouts], [r.completion_ids for r in rollouts])
        )  # fmt: skip
    assert measured == 3 * scoring_flops(shape, LENGTHS, role)


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        ({"tuning": "full"}, 1e-9),
        ({"tuning": "full", "gradient_checkpointing": True}, 1e-9),
        ({"tuning": "lora"}, 0.03),  # the first layer's inputs need no gradient
    ],
    ids=["full", "recomputed", "lora"],
)
def test_the_students_step_counts(folder, model, tolerance):
    config, shape, policy, rollouts = setting(folder, **model)
    policy.model.train()
    frozen = policy.frozen_hidden(
        {role: [r.prompts[role] for r in rollouts] for role in ("teacher", "reference", "base")},
        [r.completion_ids for r in rollouts],
    )
    compute = student_loss(
        policy, Batch(rollouts, frozen), method=loss_method(config.method), weighting="uniform", n_tokens=63
    )
    measured, _ = counted(lambda: Inside(policy.model)(compute)[0].backward())
    expected = 3 * (student_flops(config, shape, LENGTHS) + loss_flops(config, shape, LENGTHS))
    if config.model.tuning == "full":  # the head's weight gradient is added in place, which the counter does not see
        expected -= 3 * head_flops(shape, LENGTHS.completion)
    assert measured == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_about_what_autograd_keeps(folder, recompute):
    config, shape, policy, rollouts = setting(folder, tuning="full", gradient_checkpointing=recompute, attention="sdpa")
    policy.model.train()
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = completion_hidden(policy.model, [r.prompts["student"] for r in rollouts],
                                   [r.completion_ids for r in rollouts])  # fmt: skip
    assert states.requires_grad
    expected = activation_bytes(config, shape, LENGTHS, item=4)
    if recompute:  # layer inputs and the last norm; the one layer recomputed at a time, which is not kept, comes on top
        tokens = 3 * (LENGTHS.question + LENGTHS.completion - 1)
        assert expected - sum(kept.values()) < tokens * layer_bytes_per_token(shape, item=4)
        expected = tokens * shape.hidden * 4 * (shape.layers + 2)
    assert sum(kept.values()) == pytest.approx(expected, rel=0.1)


def test_a_step_adds_up_and_purified_costs_two_more_passes():
    shape, gpu = SHAPES["Qwen/Qwen3-8B"], GPUS["h100"]
    config = TrainConfig(model=ModelConfig(path="Qwen/Qwen3-8B"), run=RunConfig(diagnostics_every=0))
    costs = {
        target: step_cost(replace(config, method=MethodConfig(target=target)), shape, LENGTHS, gpu, utilisation=0.5)
        for target in ("purified", "standard")
    }
    extra = costs["purified"].flops["frozen"] - costs["standard"].flops["frozen"]
    assert extra == 32 * sum(scoring_flops(shape, LENGTHS, role) for role in ("reference", "base"))
    assert costs["purified"].step_seconds == pytest.approx(sum(costs["purified"].seconds.values()))
    assert costs["purified"].flops["rollout"] == 32 * rollout_flops(shape, LENGTHS)
    assert costs["purified"].train_bytes["frozen_copy"] == 0
    assert shape.parameters == pytest.approx(8.19e9, rel=0.01)


def test_what_runs_in_float32_counts_at_its_own_peak():
    """A float32 model, its head even under autocast, and the float32 adapter of a bfloat16 model without autocast."""
    shape, gpu = SHAPES["Qwen/Qwen3-8B"], GPUS["h100"]

    def seconds(dtype, precision):
        config = TrainConfig(model=ModelConfig(path="Qwen/Qwen3-8B", dtype=dtype), run=RunConfig(precision=precision))
        cost = step_cost(config, shape, LENGTHS, gpu, utilisation=0.5)
        return cost, 32 * adapter_flops(config, shape, LENGTHS)

    (half, adapter), (cast, _), (single, _), (mixed, _) = (
        seconds(d, p) for d, p in (("bfloat16", "no"), ("bfloat16", "bf16"), ("float32", "no"), ("float32", "bf16"))
    )
    slower = gpu.flops / gpu.flops_float32
    assert half.seconds["student"] - cast.seconds["student"] == pytest.approx(adapter * (slower - 1) / (gpu.flops * 0.5))
    assert single.seconds["frozen"] == pytest.approx(slower * half.seconds["frozen"])
    assert mixed.seconds["frozen"] == pytest.approx(half.seconds["frozen"])
    assert mixed.seconds["heads and loss"] == pytest.approx(single.seconds["heads and loss"])
    products = single.flops["heads and loss"] / (gpu.flops_float32 * 0.5)
    tables = single.seconds["heads and loss"] - products
    assert half.seconds["heads and loss"] - tables == pytest.approx(half.flops["heads and loss"] / (gpu.flops * 0.5))


PAPER = [name for name in RECIPES if name.startswith("purified_") and not name.endswith(ONE_GPU)]


@pytest.mark.parametrize("name", PAPER)
def test_purified_costs_under_a_tenth_more_on_eight_gpus_and_more_than_that_on_one(name):
    """The paper reports under 10 % more wall-clock; on one GPU decoding does not hide two more frozen passes."""
    config = RECIPES[name]()
    shape, _ = shape_of(config)
    on = {
        gpus: purified_over_standard(config, shape, Lengths(), GPUS["h100"], utilisation=0.35, gpus=gpus)[0]
        for gpus in (1, 8)
    }
    assert 1 < on[8] < 1.10 < on[1] < 1.35


def test_eight_gpus_share_rollouts_and_sharding_shares_weights():
    shape, gpu = SHAPES["Qwen/Qwen3-8B"], GPUS["h100"]
    config = RECIPES["purified_qwen3_8b_dasd_10k"]()
    one, eight = (step_cost(config, shape, LENGTHS, gpu, utilisation=0.5, gpus=n) for n in (1, 8))
    for part in ("frozen", "student", "rollout"):
        assert one.flops[part] == 8 * eight.flops[part]
    assert eight.beside and eight.peak_bytes == sum(eight.train_bytes.values()) + sum(eight.rollout_bytes.values())
    assert sum(eight.rollout_bytes.values()) == pytest.approx(config.rollout.gpu_memory_share * gpu.memory * (1 << 30))
    sharded = replace(config, run=replace(config.run, sharding="full"))
    shared = step_cost(sharded, shape, LENGTHS, gpu, utilisation=0.5, gpus=8)
    assert shared.train_bytes["weights"] == eight.train_bytes["weights"] / 8
    assert 0 < shared.train_bytes["gathered"] < eight.train_bytes["weights"] / 4
    zero2 = replace(config, run=replace(config.run, sharding="zero2"))
    held = step_cost(zero2, shape, LENGTHS, gpu, utilisation=0.5, gpus=8).train_bytes
    assert held["weights"] == eight.train_bytes["weights"] and held["adam"] == eight.train_bytes["adam"] / 8
    with pytest.raises(ValueError, match="--gpus 5 does not divide the 32 rollouts"):
        step_cost(config, shape, LENGTHS, gpu, utilisation=0.5, gpus=5)


def test_sheet_prints_its_assumptions_and_unknown_names_are_refused(capsys):
    assert cli.main(["cost", "purified_qwen3_4b_dasd_10k", "--gpu", "a100-80", "--utilisation", "0.4"]) == 0
    shown = capsys.readouterr().out
    for words in ("utilisation assumed 40%", "unverified", "purified / standard on 8 a100-80", "reference 1000", "peak"):
        assert words in shown
    assert cli.main(["cost", "purified_qwen3_4b_dasd_10k", "--gpu", "h10"]) == 2
    assert "h100" in capsys.readouterr().err
    with pytest.raises(ValueError, match="above 0"):
        cost_sheet(TrainConfig(model=ModelConfig(path="Qwen/Qwen3-4B")), utilisation=0)
