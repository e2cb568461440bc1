import numpy as np
import pytest
import torch
from engine_fixtures import byte_tokenizer, tiny_model

from opsd_eval.engines import Request, Sampling
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


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_greedy_equals_transformers_generate(tokenizer, kind):
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


def test_rows_do_not_depend_on_batching_or_company(tokenizer):
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
