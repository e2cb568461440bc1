import json
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from opsd_train import checkpoint, trainer
from opsd_train.config import apply_overrides
from opsd_train.stopping import Interrupted, Unhealthy
from opsd_train.trainer import learning_rate, train
from tests.opsd_train.conftest import log_rows


def with_(config, text):
    return apply_overrides(config, text.split())


def folder_bytes(out, step):
    folder = checkpoint.checkpoint_path(out, step)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "README.md"}


def test_takes_exactly_the_steps_asked_for_and_logs_each(config, tmp_path):
    train(config, tmp_path)
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert checkpoint.checkpoint_steps(tmp_path) == [2, 4]
    assert [("diagnostics" in row) for row in rows] == [True, False, False, True]
    moments = load_file(checkpoint.checkpoint_path(tmp_path, 4) / "optimizer.safetensors")
    assert {float(t) for name, t in moments.items() if name.endswith("|step")} == {4.0}
    first = rows[0]
    assert first["rollouts"] == 6 and first["problems"] == 6
    assert first["n_tokens"] == pytest.approx(6 * first["completion_tokens"])
    assert first["loss"] > 0 and first["grad_norm"] > 0 and first["lr"] == 1e-2
    assert first["kl_base"] == pytest.approx(0.0, abs=1e-6) and rows[3]["kl_base"] > 1e-4


def test_contexts_that_tell_nothing_give_loss_zero_at_the_first_step(config, tmp_path):
    train(with_(config, "--method.target standard --method.context empty_reference --optim.steps 2"), tmp_path)
    first, second = log_rows(tmp_path)
    assert first["loss"] == pytest.approx(0.0, abs=1e-9) and first["grad_norm"] == pytest.approx(0.0, abs=1e-6)
    assert second["kl_base"] == pytest.approx(0.0, abs=1e-3)  # Adam turns rounding into steps


def test_a_reference_moves_the_teacher_from_the_student(config, tmp_path):
    train(with_(config, "--method.target standard --optim.steps 1"), tmp_path)
    assert log_rows(tmp_path)[0]["loss"] > 1e-4


@pytest.mark.parametrize(
    "arm",
    [
        "--method.teacher_mode ema --method.ema_decay 0.5",
        "--model.tuning lora --model.lora_rank 4 --model.lora_alpha 8 --model.lora_dropout 0.1",
        "--method.target standard --method.teacher_mode live --optim.schedule cosine --optim.warmup_steps 2",
        "--model.tuning lora --model.lora_rank 4 --method.teacher_mode ema --method.ema_decay 0.5",
    ],
    ids=["full_ema", "lora_dropout", "live_cosine", "lora_ema"],
)
def test_resume_is_bit_identical(config, tmp_path, monkeypatch, arm):
    config = with_(config, arm)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)

    real, calls = trainer.train_step, []

    def dies_at_the_fourth(session, step):
        calls.append(step)
        if step == 3:
            raise KeyboardInterrupt  # as hard as a kill: nothing is saved
        return real(session, step)

    monkeypatch.setattr(trainer, "train_step", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train(config, cut)
    assert [row["step"] for row in log_rows(cut)] == [1, 2, 3]
    monkeypatch.setattr(trainer, "train_step", real)
    train(config, cut, resume=True)
    assert log_rows(cut) == log_rows(whole)
    assert folder_bytes(cut, 4) == folder_bytes(whole, 4)
    train(config, cut, resume=True)  # done already: changes nothing
    assert log_rows(cut) == log_rows(whole)


def test_two_runs_with_one_seed_agree_and_another_seed_differs(config, tmp_path):
    config = with_(config, "--optim.steps 2")
    for name in ("a", "b"):
        train(config, tmp_path / name)
    train(with_(config, "--run.seed 1"), tmp_path / "c")
    assert log_rows(tmp_path / "a") == log_rows(tmp_path / "b") != log_rows(tmp_path / "c")


def test_accumulation_does_not_change_the_step(config, tmp_path):
    for size in (6, 2, 1):
        train(with_(config, f"--optim.steps 2 --optim.micro_batch_size {size}"), tmp_path / str(size))
    whole = log_rows(tmp_path / "6")
    for size in ("2", "1"):
        for mine, theirs in zip(log_rows(tmp_path / size), whole, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_teacher_modes_share_the_first_step_and_then_part(config, tmp_path):
    losses = {}
    for mode in ("frozen", "ema", "live"):
        train(with_(config, f"--method.teacher_mode {mode} --method.target standard --optim.steps 3"), tmp_path / mode)
        losses[mode] = [row["loss"] for row in log_rows(tmp_path / mode)]
    assert losses["frozen"][0] == pytest.approx(losses["ema"][0]) == pytest.approx(losses["live"][0])
    assert len({round(v[2], 9) for v in losses.values()}) == 3


def test_an_ema_that_never_moves_is_the_frozen_teacher(config, tmp_path):
    train(with_(config, "--method.teacher_mode ema --method.ema_decay 1.0"), tmp_path / "ema")
    train(config, tmp_path / "frozen")
    ema, frozen = (log_rows(tmp_path / name) for name in ("ema", "frozen"))
    assert [r["loss"] for r in ema] == pytest.approx([r["loss"] for r in frozen], rel=1e-5)


def test_nan_in_the_loss_stops_with_step_and_problem_and_saves_the_state_before(config, tmp_path, monkeypatch):
    real, poisoned = trainer.frozen_batch, []

    def poison(policy, rollouts, roles):
        batch = real(policy, rollouts, roles)
        if len(log_rows(tmp_path)) == 1 and not poisoned:
            poisoned.append(rollouts[1].problem_id)
            start = len(rollouts[0].completion_ids)
            batch.frozen_hidden["teacher"][start] = math.nan
        return batch

    monkeypatch.setattr(trainer, "frozen_batch", poison)
    config = with_(config, "--run.diagnostics_every 0")
    with pytest.raises(Unhealthy, match="step 2: the loss is not finite on problems") as stop:
        train(config, tmp_path)
    assert f"problems {poisoned[0]}; the state after step 1" in str(stop.value)
    assert checkpoint.checkpoint_steps(tmp_path) == [1]
    monkeypatch.undo()
    train(config, tmp_path, resume=True)
    train(config, tmp_path.with_name("clean"))
    assert log_rows(tmp_path) == log_rows(tmp_path.with_name("clean"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_cleanly_after_the_step_with_the_state_saved(config, tmp_path, monkeypatch, number, code):
    real = trainer.train_step

    def signalled(session, step):
        if step == 2:
            os.kill(os.getpid(), number)
        return real(session, step)

    before = signal.getsignal(number)
    monkeypatch.setattr(trainer, "train_step", signalled)
    with pytest.raises(Interrupted) as stop:
        train(config, tmp_path)
    assert stop.value.exit_code == code
    assert checkpoint.checkpoint_steps(tmp_path) == [2, 3]
    assert signal.getsignal(number) is before


def test_health_check_stops_when_entropy_vanishes(config, tmp_path):
    with pytest.raises(Unhealthy, match=r"entropy .* below min_entropy \(100\) for 2 steps"):
        train(with_(config, "--run.min_entropy 100 --run.patience 2"), tmp_path)
    assert checkpoint.checkpoint_steps(tmp_path) == [2]


def test_stale_engine_is_caught(config, tmp_path, monkeypatch):
    config = with_(config, "--rollout.check_every 1")
    real = trainer.make_sampler

    def stale(config, policy, out):
        import copy

        sampler = real(config, policy, out)
        sampler.engine.model = copy.deepcopy(policy.model)  # an engine that never hears of an update
        return sampler

    monkeypatch.setattr(trainer, "make_sampler", stale)
    with pytest.raises(Unhealthy, match="stale"):
        train(config, tmp_path)
    monkeypatch.undo()
    train(config, tmp_path.with_name("fresh"))
    assert max(row["engine_gap"] for row in log_rows(tmp_path.with_name("fresh"))) < 1e-4


def test_learning_rate_warms_up_and_decays_to_zero_after_the_last_step(config):
    optim = with_(config, "--optim.lr 1 --optim.steps 10 --optim.warmup_steps 4 --optim.schedule linear").optim
    assert [learning_rate(s, optim) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [learning_rate(s, optim) for s in (4, 7, 9, 10)] == pytest.approx([1.0, 0.5, 1 / 6, 0.0])
    cosine = with_(config, "--optim.lr 1 --optim.steps 10 --optim.schedule cosine").optim
    assert [learning_rate(s, cosine) for s in (0, 5, 10)] == pytest.approx([1.0, 0.5, 0.0])


def test_full_checkpoint_loads_with_from_pretrained(config, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train(with_(config, "--optim.steps 2"), tmp_path)
    folder = checkpoint.checkpoint_path(tmp_path, 2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template and model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    before = AutoModelForCausalLM.from_pretrained(config.model.path)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)


def test_tensorboard_gets_every_number(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(with_(config, "--optim.steps 2 --run.trackers tensorboard --run.name first"), tmp_path)
    (events,) = list((tmp_path / "first").glob("events.*"))
    found = EventAccumulator(str(events)).Reload()
    assert {"loss", "grad_norm", "seconds.rollout", "diagnostics.cos_total_ref_plain"} <= set(found.Tags()["scalars"])
    assert [e.value for e in found.Scalars("loss")] == pytest.approx([row["loss"] for row in log_rows(tmp_path)])


def test_a_tokenizer_without_a_pad_token_changes_no_number(config, tmp_path):
    shutil.copytree(config.model.path, tmp_path / "bare")
    for name, keys in {"tokenizer_config.json": ["pad_token"], "config.json": ["pad_token_id"],
                       "generation_config.json": ["pad_token_id"]}.items():  # fmt: skip
        values = json.loads((tmp_path / "bare" / name).read_text())
        (tmp_path / "bare" / name).write_text(json.dumps({k: v for k, v in values.items() if k not in keys}))
    few = with_(config, "--optim.steps 2")
    train(few, tmp_path / "with")
    train(with_(few, f"--model.path {tmp_path / 'bare'}"), tmp_path / "without")
    assert log_rows(tmp_path / "without") == log_rows(tmp_path / "with")


def test_training_works_off_the_main_thread(config, tmp_path):
    import threading

    worker = threading.Thread(target=train, args=(with_(config, "--optim.steps 1"), tmp_path))
    worker.start()
    worker.join()
    assert len(log_rows(tmp_path)) == 1


def test_adapter_checkpoint_loads_on_its_base_and_is_refused_on_another(config, tmp_path):
    from opsd_eval.engines.loading import load_model

    train(with_(config, "--model.tuning lora --model.lora_rank 4 --optim.steps 2"), tmp_path / "run")
    folder = checkpoint.checkpoint_path(tmp_path / "run", 2)
    adapted, plain = load_model(config.model.path, adapter=folder), load_model(config.model.path)
    ids = torch.arange(8)[None]
    assert not torch.equal(adapted(input_ids=ids).logits, plain(input_ids=ids).logits)
    with torch.no_grad():
        plain.get_input_embeddings().weight.add_(1.0)
    plain.save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="trained on a base"):
        load_model(tmp_path / "other", adapter=folder)


@pytest.mark.parametrize(
    "options",
    [
        "--model.tuning lora --model.dtype bfloat16 --model.gradient_checkpointing true",
        "--run.precision bf16",
        "--optim.draws 3 --method.weighting position_linear",
        "--method.divergence forward_kl --method.clip per_entry --method.clip_value 0.05 --method.context answer_only",
        "--method.target no_subtraction --method.beta 2 --method.weighting entropy_top20",
    ],
)
def test_other_settings_train(config, tmp_path, options):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # precision is accelerate's per process; other tests use another
    train(with_(config, options), tmp_path)
    AcceleratorState._reset_state()
    rows = log_rows(tmp_path)
    assert len(rows) == 4 and all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert rows[0]["kl_base"] < 1e-3 < rows[3]["kl_base"]
    assert {row["problems"] for row in rows} == {2 if "draws 3" in options else 6}


@pytest.mark.parametrize(
    "arm",
    [
        "--method.target rlcsd --method.context right_and_wrong",
        "--method.target ad_opsd",
        "--method.target standard --method.weighting entropy_push",
    ],
    ids=["wrong_hint", "student_in_target", "signed"],
)
def test_targets_weightings_and_contexts_of_other_methods_train(config, tmp_path, arm):
    train(with_(config, arm + " --optim.steps 2"), tmp_path)
    rows = log_rows(tmp_path)
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert math.isfinite(rows[0]["diagnostics"]["kl_target_from_base"])
    assert rows[1]["kl_base"] > 0


def test_a_target_that_reads_outcomes_scores_the_teacher_and_trains(config, tmp_path):
    config = with_(config, "--method.target credited --optim.steps 2 --rollout.max_new_tokens 40")
    assert trainer.roles_to_score(config) == ["base", "teacher"]
    train(config, tmp_path)
    rows = log_rows(tmp_path)
    assert max(row["grad_norm"] for row in rows) > 0, "some completions end, some do not"
    assert "entropy_teacher" in rows[0]["diagnostics"] and "entropy_target" not in rows[0]["diagnostics"]
