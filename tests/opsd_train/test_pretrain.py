"""Pretraining: deterministic, loads like any Hugging Face model, every corpus token weighs the same."""

import argparse
import itertools
import json

import pytest
import torch
from safetensors import safe_open

from opsd_eval.testbed.vocabulary import build_tokenizer
from opsd_train import pretrain as module

TINY = module.PretrainConfig(hidden=32, layers=1, heads=1, kv_heads=1, mlp=32, steps=6, batch=8, warmup=2, pool=200)


def test_same_seed_same_bytes_and_worlds_of_a_family_share_them(tmp_path):
    one = module.pretrain("hunch_r10", seed=0, out=tmp_path / "a", config=TINY)
    two = module.pretrain("hunch_r100", seed=0, out=tmp_path / "b", config=TINY)
    other = module.pretrain("hunch_r10", seed=1, out=tmp_path / "c", config=TINY)
    assert one["sha256"] == two["sha256"] != other["sha256"]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    record = json.loads((tmp_path / "a/base.json").read_text())
    assert record["world"] == "hunch_r10" and record["training"]["steps"] == 6
    with pytest.raises(ValueError, match="not empty"):
        module.pretrain("hunch_r10", seed=0, out=tmp_path / "a", config=TINY)


def test_trained_model_loads_and_generates(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module.pretrain("search", seed=0, out=tmp_path, config=TINY)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "start 4 , + 5 ?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    assert tokenizer.decode(ids[0]) == "<|user|> start 4 , + 5 ? <|assistant|>"
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape == (1, ids.shape[1] + 3)
    files = {p.suffix for p in tmp_path.iterdir()}
    assert files == {".json", ".jinja", ".safetensors"}


@pytest.mark.parametrize("family", ["hunch", "slips", "search"])
def test_corpus_rows_have_no_unknown_word_and_fit(family):
    tokenizer = build_tokenizer()
    rows = module.corpus_rows(family, tokenizer, seed=0, pool=300)
    prompts = set()
    for ids, prompt in itertools.islice(rows, 600):
        assert tokenizer.unk_token_id not in ids and len(ids) <= 192
        assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(ids[prompt:-1])
        assert tokenizer.encode(text, add_special_tokens=False) == ids[prompt:-1]
        prompts.add(tokenizer.decode(ids[1:prompt - 1]).split()[0])
    assert prompts >= ({"find", "ref"} if family == "search" else {"start", "ref"} if family == "slips" else
                       {"start", "r10", "r100"})


def test_prompt_kinds_keep_the_designs_shares():
    import random

    from opsd_eval.testbed.design import DESIGN
    from opsd_eval.testbed.worlds import canonical_problems

    items, rng = canonical_problems("hunch", "corpus", 50, 0), random.Random(0)
    users = [module.pick_trace("hunch", rng.choice(items), rng, hunches=[1])[0] for _ in range(5000)]
    asked = [u.startswith("start") for u in users]
    shown = ["boxed" in u for u in users]
    shares = [sum(a and not s for a, s in zip(asked, shown, strict=True)),
              sum(a and s for a, s in zip(asked, shown, strict=True)), sum(not a for a in asked)]
    assert [s / 5000 for s in shares] == pytest.approx(DESIGN.prompt_mix, abs=0.03)
    bare = [u for u in users if "\\boxed" in u and not any(t in u.split() for t in DESIGN.recovery)]
    assert len(bare) / sum(shown) == pytest.approx(DESIGN.answer_only_share, abs=0.03)


def test_every_token_weighs_the_same_in_short_and_long_batches():
    class Uniform(torch.nn.Module):
        def forward(self, input_ids):
            return argparse.Namespace(logits=torch.zeros(*input_ids.shape, 10))

    def loss(batch, length):
        inputs = torch.ones(batch, length + 1, dtype=torch.long)
        return module.trace_loss(Uniform(), inputs, inputs, scale=64.0).item()

    assert loss(4, 20) == pytest.approx(4 * 20 * torch.log(torch.tensor(10.0)).item() / 64, rel=1e-5)
    assert loss(4, 20) == pytest.approx(5 * loss(4, 4), rel=1e-5)


def test_a_base_may_start_from_another_worlds_base_of_the_same_seed(monkeypatch):
    from dataclasses import replace

    from opsd_eval import testbed

    tokenizer = build_tokenizer()
    after = replace(TINY, after="hunch_r10")
    shipped = module.first_model(tokenizer, after, seed=1)
    with safe_open(testbed.base_path("hunch_r10", 1) / "model.safetensors", "pt") as file:
        assert torch.equal(shipped.model.norm.weight, file.get_tensor("model.norm.weight"))
    monkeypatch.setattr(module, "default_config", lambda world: TINY)  # no base ships for seed 99: trained here first
    trained, again = (module.first_model(tokenizer, after, seed=99).state_dict() for _ in range(2))
    fresh = module.build_model(tokenizer, TINY, seed=99).state_dict()
    assert all(torch.equal(trained[name], again[name]) for name in trained)
    assert any(not torch.equal(trained[name], fresh[name]) for name in trained)


def test_command_line(tmp_path, capsys, monkeypatch):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    args = parser.parse_args(["slips", "--seed", "3", "--out", str(tmp_path / "x"), "--steps", "2"])
    monkeypatch.setattr(module, "default_config", lambda world: TINY)
    assert module.run(args) == 0
    assert "parameters" in capsys.readouterr().out
    with pytest.raises(ValueError, match="slips"):
        module.pretrain("slip", seed=0, out=tmp_path / "y", config=TINY)
