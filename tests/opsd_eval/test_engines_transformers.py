import numpy as np
import pytest
import torch
from engine_fixtures import byte_tokenizer, tiny_model

from opsd_eval.engines import Request, Sampling, row_seed
from opsd_eval.engines.flat import FlatDecoder, is_flat
from opsd_eval.engines.kernel import library
from opsd_eval.engines.streams import pick_tokens, uniforms
from opsd_eval.engines.transformers_engine import TransformersEngine

torch.set_num_threads(1)


def requests(n=20, draws=2, seed=0):
    rng = np.random.default_rng(seed)
    prompts = [tuple(rng.integers(3, 290, size=rng.integers(1, 12)).tolist()) for _ in range(n)]
    return [Request(f"p{i}", draw, prompt) for i, prompt in enumerate(prompts) for draw in range(draws)]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def run(engine, items, logprobs=False, **sampling):
    found = list(engine.generate(items, sampling=Sampling(**sampling), logprobs=logprobs))
    assert len(found) == len(items)
    return {(c.problem_id, c.draw): c for c in found}


@pytest.mark.parametrize("path", ["kernel", "flat", "generic"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_greedy_equals_transformers_generate(tokenizer, monkeypatch, kind, path):
    force(monkeypatch, path)
    model = tiny_model(kind)
    engine = TransformersEngine(model, tokenizer, batch_size=7)
    items = requests(6)
    found = run(engine, items, temperature=0, max_new_tokens=24)
    for item in items:
        expected = model.generate(
            torch.tensor([item.prompt_ids]), attention_mask=torch.ones(1, len(item.prompt_ids), dtype=torch.long),
            do_sample=False, max_new_tokens=24,
        )[0, len(item.prompt_ids) :].tolist()  # fmt: skip
        completion = found[item.problem_id, item.draw]
        assert list(completion.token_ids) == expected
        assert completion.finish_reason == ("stop" if expected[-1] == 2 else "length")


@pytest.mark.parametrize("path", ["flat", "generic"])
def test_rows_do_not_depend_on_batching_or_company(tokenizer, monkeypatch, path):
    force(monkeypatch, path)
    model = tiny_model()
    items = requests(12)
    settings = {"temperature": 0.9, "max_new_tokens": 40, "seed": 3, "stop_token_ids": tuple(range(40, 60))}
    one = run(TransformersEngine(model, tokenizer, batch_size=1), items, **settings)
    many = run(TransformersEngine(model, tokenizer, batch_size=16), items[::-1], **settings)
    some = run(TransformersEngine(model, tokenizer, batch_size=64), items[5:9], **settings)
    assert one == many
    assert all(one[key] == value for key, value in some.items())
    assert {c.finish_reason for c in one.values()} == {"stop", "length"}
    assert one["p0", 0].token_ids != one["p0", 1].token_ids


def shaken(kind, **overrides):
    """A tiny model whose norm weights are not all one, so that a misplaced one shows."""
    model = tiny_model(kind, **overrides)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 2.0, generator=generator)
    return model


@pytest.mark.parametrize(("kind", "overrides"), [
    ("qwen3", {}), ("llama", {}), ("qwen3", {"num_attention_heads": 4}), ("llama", {"num_attention_heads": 8}),
    ("qwen3", {"tie_word_embeddings": False}), ("llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
])  # fmt: skip
def test_flat_logits_equal_the_library(kind, overrides):
    model = shaken(kind, **overrides)
    assert is_flat(model)
    decoder = FlatDecoder(model, 292)
    rows = [[5, 6, 7, 8], [9, 10], [11]]
    start = 3 - torch.tensor([3, 1, 0])
    with torch.inference_mode():
        cache = decoder.prefill([row[:-1] for row in rows])
        for column in range(3, 40):
            logits = decoder.step(cache, torch.tensor([row[-1] for row in rows]), start, column)
            if column % 6 == 3:
                exact = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in rows])
                torch.testing.assert_close(logits, exact, atol=1e-4, rtol=0)
            for row, token in zip(rows, logits.argmax(-1).tolist(), strict=True):
                row.append(token)


def test_flat_refuses_what_it_does_not_compute():
    assert not is_flat(tiny_model("llama", attention_bias=True))
    assert not is_flat(tiny_model("llama", hidden_act="gelu"))
    assert not is_flat(tiny_model().bfloat16())
    assert not is_flat(tiny_model("qwen3", use_sliding_window=True, sliding_window=8, max_window_layers=1))


PATHS = ("kernel", "flat", "generic")


def force(monkeypatch, path):
    """Have the engine take one of its three ways."""
    if path == "kernel":
        assert library() is not None, "no C compiler on this machine"
    if path == "generic":
        monkeypatch.setattr("opsd_eval.engines.flat.is_flat", lambda model: False)
    if path == "flat":
        monkeypatch.setattr("opsd_eval.engines.kernel.kernel_covers", lambda *args: False)


@pytest.mark.parametrize("cut", [{"top_k": 40, "top_p": 0.9}, {}])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_all_ways_draw_the_same(tokenizer, monkeypatch, cut, kind):
    model = shaken(kind, num_attention_heads=4)
    items = requests(8)
    settings = {"temperature": 0.8, "max_new_tokens": 30, "seed": 1, "stop_token_ids": tuple(range(40, 50)), **cut}
    found = {}
    for path in PATHS:
        with monkeypatch.context() as patch:
            force(patch, path)
            found[path] = run(TransformersEngine(model, tokenizer, batch_size=5), items, logprobs=True, **settings)
    for key, completion in found["generic"].items():
        for path in ("flat", "kernel"):
            assert found[path][key].token_ids == completion.token_ids
            assert found[path][key].finish_reason == completion.finish_reason
            np.testing.assert_allclose(found[path][key].logp, completion.logp, atol=1e-4)


def test_kernel_gives_the_same_bits_in_any_company(tokenizer):
    model = shaken("qwen3")
    items = requests(15, draws=3)
    settings = {"max_new_tokens": 40, "stop_token_ids": tuple(range(40, 60))}
    engine = TransformersEngine(model, tokenizer)
    whole = run(engine, items, logprobs=True, **settings)
    for part in (items[4:5], items[7:20], items[::-1]):
        for key, completion in run(engine, part, logprobs=True, **settings).items():
            assert completion == whole[key]  # log-probabilities too, exactly


@pytest.mark.parametrize("batch_size", [1, 3, 7, 60])
def test_kernel_gives_the_same_bits_whatever_the_batch_threads_and_memory(tokenizer, monkeypatch, batch_size):
    model = shaken("llama", num_attention_heads=8)
    items = requests(15, draws=4)
    settings = {"max_new_tokens": 40, "stop_token_ids": tuple(range(40, 60))}
    whole = run(TransformersEngine(model, tokenizer), items, logprobs=True, **settings)
    monkeypatch.setattr("opsd_eval.engines.kernel._ONE_CORE", 0)
    monkeypatch.setattr("opsd_eval.engines.kernel.torch_threads", lambda: 2)
    monkeypatch.setattr("opsd_eval.engines.kernel._PROMPT_BYTES", 1)  # a run for each prompt
    assert run(TransformersEngine(model, tokenizer, batch_size=batch_size), items, logprobs=True, **settings) == whole


def test_kernel_hands_rows_out_as_they_end_and_can_be_left_halfway(tokenizer, monkeypatch):
    passes = []
    compiled = library()
    monkeypatch.setattr("opsd_eval.engines.kernel._WEIGHTS_A_CALL", 1)  # one pass a call

    class Counted:
        start, finish = compiled.start, compiled.finish

        @staticmethod
        def advance(handle, count):
            passes.append(count)
            return compiled.advance(handle, count)

    monkeypatch.setattr("opsd_eval.engines.kernel.library", Counted)
    settings = Sampling(max_new_tokens=40, stop_token_ids=tuple(range(40, 140)))
    rows = TransformersEngine(shaken("qwen3"), tokenizer).generate(requests(8, draws=2), sampling=settings)
    assert len(next(rows).token_ids) < len(passes) + 1 < 20
    rows.close()
    assert set(passes) == {1}


def test_without_a_compiler_the_flat_loop_takes_over(tokenizer, monkeypatch):
    model, items = shaken("qwen3"), requests(4)
    expected = run(TransformersEngine(model, tokenizer), items, max_new_tokens=10)
    library.cache_clear()
    monkeypatch.setenv("OPSD_KERNEL", "0")
    assert library() is None
    assert run(TransformersEngine(model, tokenizer), items, max_new_tokens=10) == expected
    library.cache_clear()


def test_a_compiler_that_fails_is_survived(tmp_path, monkeypatch, caplog):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    assert library() is None and "no C decode loop" in caplog.text
    library.cache_clear()
    assert list((tmp_path / "cache" / "opsd").iterdir()) == []


@pytest.mark.parametrize("path", PATHS)
def test_logp_is_that_of_the_raw_distribution(tokenizer, monkeypatch, path):
    force(monkeypatch, path)
    model = tiny_model()
    items = requests(4)
    found = run(TransformersEngine(model, tokenizer), items, logprobs=True, temperature=0.7, max_new_tokens=16)
    for item in items:
        completion = found[item.problem_id, item.draw]
        with torch.no_grad():
            logp = model(torch.tensor([[*item.prompt_ids, *completion.token_ids]])).logits[0].log_softmax(-1)
        at = torch.arange(len(item.prompt_ids) - 1, len(item.prompt_ids) - 1 + len(completion.token_ids))
        np.testing.assert_allclose(completion.logp, logp[at, torch.tensor(completion.token_ids)], atol=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_changed_weights_are_picked_up(tokenizer, monkeypatch, path):
    force(monkeypatch, path)
    model = tiny_model()
    engine = TransformersEngine(model, tokenizer)
    items = requests(3)
    before = run(engine, items, temperature=0, max_new_tokens=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    after = run(engine, items, temperature=0, max_new_tokens=8)
    assert before != after
    assert after == run(TransformersEngine(model, tokenizer), items, temperature=0, max_new_tokens=8)


def test_adapter_is_applied_and_training_mode_put_back(tokenizer, monkeypatch):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False)
    model = peft.get_peft_model(tiny_model("llama"), config).train()
    items = requests(4)
    engine = TransformersEngine(model, tokenizer)
    assert is_flat(model)
    fast = run(engine, items, temperature=0, max_new_tokens=12)
    assert model.training
    with model.disable_adapter():
        base = run(engine, items, temperature=0, max_new_tokens=12)
    force(monkeypatch, "generic")
    assert run(engine, items, temperature=0, max_new_tokens=12) == fast != base
    dora = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(r=4, target_modules="all-linear", use_dora=True))
    assert not is_flat(dora)


def test_streams_are_uniform_repeatable_and_apart():
    seeds = np.array([row_seed(0, f"p{i}", d) for i in range(200) for d in range(2)], dtype=np.uint64)
    numbers = uniforms(seeds, np.zeros(400), 250)
    assert numbers.min() > 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.005
    np.testing.assert_array_equal(numbers[:, 100:120], uniforms(seeds, np.full(400, 100), 20))
    assert abs(np.corrcoef(numbers[0], numbers[1])[0, 1]) < 0.3
    histogram, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((histogram - 5000) ** 2 / 5000).sum() < 60  # chi-squared with 19 degrees of freedom: 1e-5 at 57


def test_picked_tokens_follow_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -50.0]])
    uniform = torch.from_numpy(uniforms(np.array([7], dtype=np.uint64), np.zeros(1), 40_000)).T.contiguous()

    def shares(**sampling):
        picked = pick_tokens(logits.expand(len(uniform), -1), uniform, Sampling(**sampling))
        return torch.bincount(picked, minlength=5) / len(uniform)

    torch.testing.assert_close(shares(), logits[0].softmax(-1), atol=0.01, rtol=0)
    torch.testing.assert_close(shares(temperature=2.0), (logits[0] / 2).softmax(-1), atol=0.01, rtol=0)
    two = torch.cat([logits[0, :2].softmax(-1), torch.zeros(3)])
    torch.testing.assert_close(shares(top_k=2), two, atol=0.01, rtol=0)
    torch.testing.assert_close(shares(top_p=0.7), two, atol=0.01, rtol=0)  # .64 is below .7, .64 + .24 above
    assert shares(temperature=0)[0] == 1 and shares(top_p=1e-9)[0] == 1


def test_bad_requests(tokenizer):
    engine = TransformersEngine(tiny_model(), tokenizer)
    with pytest.raises(ValueError, match="'p' has an empty prompt"):
        list(engine.generate([Request("p", 0, ())], sampling=Sampling()))
    with pytest.raises(ValueError, match="draw 0 of problem 'p' is requested twice"):
        list(engine.generate([Request("p", 0, (5,))] * 2, sampling=Sampling()))
    with pytest.raises(ValueError, match=r"prompt of problem 'long' has 600 tokens, the model's context is 512"):
        list(engine.generate([Request("long", 0, (5,) * 600)], sampling=Sampling()))
    with pytest.raises(ValueError, match="batch_size is 0"):
        TransformersEngine(tiny_model(), tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="top_p is 0"):
        Sampling(top_p=0)
    assert list(engine.generate([], sampling=Sampling())) == []


def test_padding_rows_of_the_head_are_never_sampled(tokenizer):
    model = tiny_model(vocab_size=320)
    with torch.no_grad():
        model.lm_head.weight[292:] = 3 * model.lm_head.weight[5]
    found = run(TransformersEngine(model, tokenizer), requests(4), max_new_tokens=30)
    assert max(max(c.token_ids) for c in found.values()) < 292


def test_adapter_of_another_base_is_refused(tmp_path, tokenizer):
    peft = pytest.importorskip("peft")
    for name, seed in (("one", 0), ("two", 1)):
        tiny_model(seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    base = TransformersEngine.from_path(tmp_path / "one").model
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    assert TransformersEngine.from_path(tmp_path / "one", adapter=tmp_path / "adapter").model.peft_config
    with pytest.raises(ValueError, match=r"was trained on .*one.* not on .*two"):
        TransformersEngine.from_path(tmp_path / "two", adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").write_text('{"sha256": "0123456789abcdef"}')
    with pytest.raises(ValueError, match="SHA-256 0123456789ab"):
        TransformersEngine.from_path(tmp_path / "one", adapter=tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"lacks adapter_config.json, adapter_model.safetensors"):
        TransformersEngine.from_path(tmp_path / "one", adapter=tmp_path / "two")
