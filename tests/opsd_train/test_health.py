"""Numbers that go wrong: steps without a token, loops, a loss that explodes, vocabularies that do not match."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from opsd_train import checkpoint, trainer
from opsd_train.config import RunConfig, apply_overrides
from opsd_train.stopping import Health, Unhealthy
from opsd_train.trainer import train
from tests.opsd_train.conftest import log_rows


def with_(config, text):
    return apply_overrides(config, text.split())


def sampler_that(monkeypatch, change):
    """Let every rollout be changed before it is trained on."""
    make = trainer.make_sampler

    def patched(config, policy, out):
        sampler = make(config, policy, out)
        draw = sampler.sample
        sampler.sample = lambda rows, prompts, **options: [change(r) for r in draw(rows, prompts, **options)]
        return sampler

    monkeypatch.setattr(trainer, "make_sampler", patched)


def test_steps_without_a_single_token_are_zero_and_move_nothing(config, tmp_path, monkeypatch):
    sampler_that(monkeypatch, lambda rollout: replace(rollout, completion_ids=(), text="", logp=None))
    train(with_(config, "--optim.steps 2"), tmp_path)
    rows = log_rows(tmp_path)
    assert [row["n_tokens"] for row in rows] == [0, 0] and [row["loss"] for row in rows] == [0.0, 0.0]
    assert all(row["entropy"] is None and row["grad_norm"] == 0 for row in rows)
    saved = checkpoint.checkpoint_path(tmp_path, 2) / "model.safetensors"
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(config.model.path).state_dict()
    assert all(torch.equal(before[name], value) for name, value in load_file(saved).items())


def test_a_run_whose_last_steps_had_no_token_goes_on(config, tmp_path, monkeypatch):
    """Their entropy is null in the log, which the health check reads again."""
    empty = with_(config, "--run.min_entropy 1e-9 --run.max_loss 1e9 --run.max_loop_share 1")
    sampler_that(monkeypatch, lambda rollout: replace(rollout, completion_ids=(), text="", logp=None))
    real, calls = trainer.train_step, []
    monkeypatch.setattr(trainer, "train_step", lambda *a: calls.append(a) or (real(*a) if len(calls) < 3 else 1 / 0))
    with pytest.raises(ZeroDivisionError):
        train(empty, tmp_path)
    assert [row["entropy"] for row in log_rows(tmp_path)] == [None, None]
    monkeypatch.undo()
    train(empty, tmp_path, resume=True)
    assert [row["step"] for row in log_rows(tmp_path)] == [1, 2, 3, 4]


def test_one_empty_completion_among_others_changes_no_other(config, tmp_path, monkeypatch):
    sampler_that(monkeypatch, lambda r: replace(r, completion_ids=(), text="") if r.problem_id.endswith("1") else r)
    train(with_(config, "--optim.steps 2"), tmp_path)
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in log_rows(tmp_path))


LIMITS = {"loss": ("max_loss", 3.0, 4.0), "entropy": ("min_entropy", 0.5, 0.1), "loop_rate": ("max_loop_share", 0.5, 0.6)}
FINE = {"loss": 1.0, "entropy": 1.0, "loop_rate": 0.1}


@pytest.mark.parametrize("name", LIMITS)
def test_only_bad_steps_in_a_row_stop_a_run_and_a_limit_of_0_never_does(name):
    option, limit, value = LIMITS[name]
    bad = {**FINE, name: value}
    health = Health(RunConfig(**{option: limit}, patience=3))
    for row in (bad, bad, FINE, bad, bad, {**FINE, name: None}, bad, bad, {**FINE, name: math.nan}, {**FINE, name: limit}):
        assert health.check(row) is None
    assert [health.check(bad) for _ in range(2)] == [None, None]
    assert health.check(bad) == f"{name} {value:g} is {'below' if name == 'entropy' else 'above'} {option} ({limit:g}) for 3 steps in a row"
    off = Health(RunConfig(patience=1))
    assert all(off.check(row) is None for row in (bad, {**bad, name: -1.0}, {**bad, name: 1e9}))


def test_bad_steps_before_a_stop_still_count_after_it(config, tmp_path, monkeypatch):
    sampler_that(monkeypatch, lambda rollout: replace(rollout, text="and again, and again, " * 60))
    bad = with_(config, "--run.max_loop_share 0.5 --run.patience 3")
    real, calls = trainer.train_step, []
    monkeypatch.setattr(trainer, "train_step", lambda *a: calls.append(a) or (real(*a) if len(calls) != 3 else 1 / 0))
    with pytest.raises(ZeroDivisionError):
        train(bad, tmp_path)
    with pytest.raises(Unhealthy, match=r"step 3: loop_rate .* for 3 steps in a row"):
        train(bad, tmp_path, resume=True)


def test_loops_above_the_limit_stop_the_run_which_may_go_on_with_another_limit(config, tmp_path, monkeypatch):
    sampler_that(monkeypatch, lambda rollout: replace(rollout, text="and again, and again, " * 60))
    bad = with_(config, "--run.max_loop_share 0.5 --run.patience 2")
    with pytest.raises(Unhealthy, match=r"step 2: loop_rate 1 is above max_loop_share \(0.5\) for 2 steps in a row"):
        train(bad, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [2]
    monkeypatch.undo()
    train(with_(bad, "--run.max_loop_share 0"), tmp_path, resume=True)
    assert [row["step"] for row in log_rows(tmp_path)] == [1, 2, 3, 4]


def test_a_loss_that_explodes_stops_the_run(config, tmp_path):
    wild = with_(config, "--method.divergence forward_kl --optim.lr 30 --optim.max_grad_norm 0 --optim.steps 40")
    with pytest.raises(Unhealthy, match=r"loss .* is above max_loss \(3\) for 2 steps|not finite on problems"):
        train(with_(wild, "--run.max_loss 3 --run.patience 2"), tmp_path)
    rows = log_rows(tmp_path)
    assert len(rows) < 40 and checkpoint.newest_whole(tmp_path) == checkpoint.checkpoint_path(tmp_path, len(rows))


def test_an_overflow_stops_before_the_update_and_names_problems(config, tmp_path, monkeypatch):
    real = trainer.student_loss

    def overflowing(*args, **kwargs):
        compute = real(*args, **kwargs)

        def wrapped(model):
            loss, stats = compute(model)
            bad = {**stats, "loss": torch.full_like(stats["loss"], math.inf)} if "loss" in stats else stats
            return loss * math.inf, bad

        return wrapped

    train(with_(config, "--optim.steps 2"), tmp_path)
    monkeypatch.setattr(trainer, "student_loss", overflowing)
    with pytest.raises(Unhealthy, match=r"step 1: the loss is not finite on problems hunch"):
        train(config, tmp_path / "other")
    assert checkpoint.checkpoint_steps(tmp_path / "other") == [0]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_fault_even_where_its_gradient_is(config, loss):
    session = SimpleNamespace(config=config)
    assert trainer.find_fault(session, {"loss": 1.0, "grad_norm": 1.0}, [], []) == ""
    assert "the loss is not finite on problems p7" in trainer.find_fault(session, {"loss": loss, "grad_norm": 1.0}, ["p7"], [])


def test_a_step_that_was_not_made_leaves_the_random_state_of_before_it(config, tmp_path, monkeypatch):
    """Its dropout has been drawn already: going on from there would train another run."""
    dropout = with_(config, "--model.tuning lora --model.lora_rank 4 --model.lora_dropout 0.5 --optim.steps 3")
    real, norms = trainer.gradient_norm, []
    monkeypatch.setattr(trainer, "gradient_norm", lambda s: norms.append(real(s)) or (math.inf if len(norms) == 2 else norms[-1]))
    with pytest.raises(Unhealthy, match="step 2: the gradient is not finite"):
        train(dropout, tmp_path / "cut")
    train(dropout, tmp_path / "cut", resume=True)
    monkeypatch.undo()
    train(dropout, tmp_path / "whole")
    assert log_rows(tmp_path / "cut") == log_rows(tmp_path / "whole")


def test_an_infinite_gradient_of_a_finite_loss_stops_before_the_update(config, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "gradient_norm", lambda session: math.inf)
    with pytest.raises(Unhealthy, match=r"step 1: the gradient is not finite on problems hunch"):
        train(config, tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [0] and not log_rows(tmp_path)
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(config.model.path).state_dict()
    saved = load_file(checkpoint.checkpoint_path(tmp_path, 0) / "model.safetensors")
    assert all(torch.equal(before[name], value) for name, value in saved.items())


def test_an_adapter_of_another_vocabulary_is_refused_even_without_its_record(config, tmp_path):
    from opsd_eval.engines.loading import load_model

    train(with_(config, "--model.tuning lora --model.lora_rank 4 --optim.steps 2"), tmp_path / "run")
    folder, base = checkpoint.checkpoint_path(tmp_path / "run", 2), tmp_path / "elsewhere" / "base"
    for name in ("base.json", "checkpoint.json"):  # as an adapter that was copied out of its checkpoint
        (folder / name).unlink()
    shutil.copytree(config.model.path, base)
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**described, "base_model_name_or_path": "x/base"}))
    load_model(base, adapter=folder)  # same vocabulary, same name
    words = json.loads((base / "tokenizer.json").read_text())
    first, second = list(words["model"]["vocab"])[20:22]
    words["model"]["vocab"] |= {first: words["model"]["vocab"][second], second: words["model"]["vocab"][first]}
    (base / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match="vocabulary"):
        load_model(base, adapter=folder)
