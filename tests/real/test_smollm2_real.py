"""SmolLM2 from its package through training, its adapter through sampling, and what is refused on the way."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from opsd_eval.cli import main as opsd_eval
from opsd_eval.engines import Request, Sampling, load_engine
from opsd_eval.engines.loading import load_model, load_tokenizer
from opsd_eval.prompts import chat_prompt_ids
from opsd_train.stopping import Unhealthy
from opsd_train.trainer import train

from .short import SUMS, short_config

pytestmark = pytest.mark.real


def log_of(run):
    return [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(smollm2, tmp_path_factory):
    """Run folders of both methods after two steps."""
    root = tmp_path_factory.mktemp("trained")
    for target in ("standard", "purified"):
        train(short_config(smollm2, "--method.target", target, "--optim.lr", "0.01"), root / target)
    return root


def test_the_unpacked_model_speaks(smollm2):
    engine = load_engine("transformers", smollm2)
    ids = tuple(chat_prompt_ids(engine.tokenizer, "What is the capital of France?"))
    [found] = engine.generate([Request("q", 0, ids)], sampling=Sampling(temperature=0, max_new_tokens=16))
    assert "Paris" in engine.tokenizer.decode(found.token_ids)


def test_missing_weights_name_the_install_target(tmp_path, monkeypatch):
    from opsd_eval import smollm2 as module

    monkeypatch.setattr(module, "_PACKAGE", "no_such_package_here")
    with pytest.raises(ValueError, match="make install-real"):
        module.smollm2_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    from opsd_eval import smollm2 as module

    def half(_gguf, out):
        (out / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setattr(module, "_convert", half)
    with pytest.raises(OSError, match="disk full"):
        module.smollm2_folder(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["standard", "purified"])
def test_two_steps_train_and_the_engine_stays_on_policy(trained, target):
    rows = log_of(trained / target)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert math.isfinite(row["loss"]) and row["loss"] > 0 and row["grad_norm"] > 0
        assert row["engine_gap"] < 1e-3
    # before the first update the student is the base; at this learning rate it no longer is after it
    assert rows[0]["kl_base"] == pytest.approx(0, abs=1e-6) and rows[1]["kl_base"] > 1e-4


def test_saved_adapter_loads_with_peft_and_switched_off_is_the_base(trained, smollm2):
    from peft import PeftModel

    ids = torch.tensor([chat_prompt_ids(load_tokenizer(smollm2), "Add 3 and 4.")])
    with torch.no_grad():
        base_logp = load_model(smollm2, dtype=torch.float32)(ids).logits.log_softmax(-1)
        model = load_model(smollm2, dtype=torch.float32)
        tuned = PeftModel.from_pretrained(model, str(trained / "purified/checkpoints/step-000002"))
        tuned_logp = tuned(ids).logits.log_softmax(-1)
        with tuned.disable_adapter():
            off_logp = tuned(ids).logits.log_softmax(-1)
    assert torch.equal(off_logp, base_logp)
    assert (tuned_logp - base_logp).abs().max() > 1e-2


def test_frozen_passes_of_an_updated_student_equal_the_base(trained, smollm2):
    """The roles' log-probabilities come from the initial weights, whatever the adapter has become."""
    from opsd_train.checkpoint import load_model as load_weights
    from opsd_train.policy import load_policy
    from opsd_train.policy import load_tokenizer as policy_tokenizer

    config = short_config(smollm2)
    policy = load_policy(config.model, config.method, policy_tokenizer(config.model), seed=0)
    load_weights(trained / "purified/checkpoints/step-000002", policy)
    prompt, completion = chat_prompt_ids(policy.tokenizer, "Add 3 and 4."), [1242, 29, 198, 2]
    hidden = policy.frozen_hidden({"base": [prompt]}, [completion])["base"]
    logp = (hidden @ policy.heads(["base"])["base"].weight.T).log_softmax(-1)
    with torch.no_grad():
        whole = load_model(smollm2, dtype=torch.float32)(torch.tensor([prompt + completion])).logits.log_softmax(-1)
    assert (logp - whole[0, len(prompt) - 1 : -1]).abs().max() < 1e-3


def test_a_stale_engine_stops_the_run(smollm2, tmp_path, monkeypatch):
    """The planted fault: rollouts come from a copy of the model that never hears of an update."""
    import copy

    from opsd_eval.engines.transformers_engine import TransformersEngine
    from opsd_train import trainer
    from opsd_train.rollouts import Sampler

    def stale(config, policy, _out):
        return Sampler(TransformersEngine(copy.deepcopy(policy.model), policy.tokenizer), policy.tokenizer, config)

    monkeypatch.setattr(trainer, "make_sampler", stale)
    config = short_config(smollm2, "--optim.lr", "0.01")
    with pytest.raises(Unhealthy, match=r"step 2: the engine's log-probabilities differ .*stale"):
        train(config, tmp_path / "run")
    assert [row["step"] for row in log_of(tmp_path / "run")] == [1]


def test_sampling_from_model_and_adapter(trained, smollm2, tmp_path):
    texts = {}
    common = [SUMS, "--n", "2", "--limit", "2", "--max-new-tokens", "12"]
    adapter = str(trained / "purified/checkpoints/step-000002")
    for name, extra in {"base": [], "tuned": ["--adapter", adapter]}.items():
        assert opsd_eval(["sample", str(smollm2), *common, "--out", str(tmp_path / name), *extra]) == 0
        rows = [json.loads(line) for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        assert len(rows) == 4
        texts[name] = sorted(row["text"] for row in rows)
    assert texts["base"] != texts["tuned"]
    assert json.loads((tmp_path / "tuned/run.json").read_text())["model"]["adapter"] == adapter


def test_adapter_of_another_base_is_refused(trained, tmp_path, capsys):
    from opsd_eval.testbed import base_path

    adapter = trained / "purified/checkpoints/step-000002"
    code = opsd_eval(
        ["sample", str(base_path("hunch_r10", 0)), SUMS, "--limit", "2", "--out", str(tmp_path / "set"),
         "--adapter", str(adapter)]
    )  # fmt: skip
    assert code == 2 and "was trained on" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_missing_files_are_listed(smollm2, tmp_path, capsys):
    shutil.copy(smollm2 / "config.json", tmp_path)
    assert opsd_eval(["sample", str(tmp_path), SUMS, "--out", str(tmp_path / "set")]) == 2
    message = capsys.readouterr().err
    assert "lacks tokenizer_config.json, model.safetensors" in message
    with pytest.raises(ValueError, match=r"\*\.safetensors.*--model\.path"):
        train(short_config("nobody/no-such-model"), tmp_path / "run")


def test_a_tokenizer_without_chat_template_says_what_to_pass(smollm2, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(smollm2, bare, ignore=shutil.ignore_patterns("chat_template.jinja", "model.safetensors"))
    (bare / "model.safetensors").symlink_to(smollm2 / "model.safetensors")
    config = short_config(bare)
    with pytest.raises(ValueError, match=r"no chat template: pass one with --model\.chat_template"):
        train(config, tmp_path / "run")
    template = str(smollm2 / "chat_template.jinja")
    from opsd_train.policy import load_tokenizer as policy_tokenizer

    assert policy_tokenizer(replace(config.model, chat_template=template)).chat_template
