import sys

import numpy as np
import pytest
import torch
from engine_fixtures import byte_tokenizer, tiny_model

from opsd_eval.engines import Request, Sampling, load_engine
from opsd_eval.engines.transformers_engine import TransformersEngine

ITEMS = [Request(f"p{i}", draw, tuple(range(20 + i, 30 + 2 * i))) for i in range(6) for draw in range(2)]


def test_missing_vllm_is_one_line(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    with pytest.raises(ValueError, match=r"^the vllm engine needs vLLM: pip install 'opsd\[vllm\]'$"):
        load_engine("vllm", tmp_path)


def adapter(folder, base, seed):
    import peft

    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "o_proj"], init_lora_weights=False)
    peft.get_peft_model(TransformersEngine.from_path(base).model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vllm")
    tiny_model(num_key_value_heads=1).save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    return root / "base", adapter(root / "one", root / "base", 1), adapter(root / "two", root / "base", 2)


@pytest.fixture(scope="module")
def engine(folders):
    engine = load_engine("vllm", folders[0], adapters=True, max_lora_rank=8, max_model_len=128)
    yield engine
    engine.close()


def run(engine, items=ITEMS, logprobs=False, **sampling):
    values = {"max_new_tokens": 20, **sampling}
    found = list(engine.generate(items, sampling=Sampling(**values), logprobs=logprobs))
    return {(c.problem_id, c.draw): c for c in found}


@pytest.mark.real
def test_ids_and_raw_logp_agree_with_transformers(engine, folders):
    found = run(engine, logprobs=True, temperature=0.7, top_k=30)
    assert len(found) == len(ITEMS)
    model = TransformersEngine.from_path(folders[0]).model
    for item in ITEMS:
        completion = found[item.problem_id, item.draw]
        ids = [*item.prompt_ids, *completion.token_ids]
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        at = torch.arange(len(item.prompt_ids) - 1, len(ids) - 1)
        np.testing.assert_allclose(completion.logp, logp[at, torch.tensor(completion.token_ids)], atol=1e-3)


@pytest.mark.real
def test_greedy_agrees_and_stop_token_is_kept(engine, folders):
    ours = run(TransformersEngine.from_path(folders[0]), temperature=0, stop_token_ids=tuple(range(100, 140)))
    found = run(engine, temperature=0, stop_token_ids=tuple(range(100, 140)))
    assert found == ours and {c.finish_reason for c in ours.values()} == {"stop", "length"}


@pytest.mark.real
def test_row_seeds_make_rows_independent_of_company(engine):
    whole, part = run(engine, seed=4), run(engine, ITEMS[3:7][::-1], seed=4)
    assert all(whole[key] == completion for key, completion in part.items())
    assert whole["p0", 0].token_ids != whole["p0", 1].token_ids
    assert run(engine, seed=5)["p0", 0] != whole["p0", 0]


@pytest.mark.real
def test_adapters_are_swapped_under_new_ids(engine, folders):
    base, one, two = folders
    seen = {}
    for name, path in {"base": None, "one": one, "two": two, "one again": one}.items():
        engine.use_adapter(path)
        seen[name] = run(engine, temperature=0)
        assert seen[name] == run(TransformersEngine.from_path(base, adapter=path), temperature=0), name
    engine.use_adapter(None)
    assert seen["base"] == run(engine, temperature=0)
    assert seen["one"] == seen["one again"] != seen["two"] and seen["base"] != seen["one"]


@pytest.mark.real
def test_stopping_early_leaves_nothing_behind(engine):
    rows = engine.generate(ITEMS, sampling=Sampling(max_new_tokens=60))
    next(rows)
    rows.close()
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert len(run(engine)) == len(ITEMS)


@pytest.mark.real
def test_prompts_beyond_the_token_budget_of_one_pass_do_not_end_the_engine(engine):
    """In pieces, the CPU build stops at the first seeded row: "CPU Generator does not use offset"."""
    items = [Request(f"p{i}", 0, tuple(3 + (i + k) % 250 for k in range(100))) for i in range(60)]
    assert len(run(engine, items, max_new_tokens=2)) == 60
