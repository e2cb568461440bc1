"""A real vLLM server: killed while it samples, rollouts for the trainer, and the harness's API model."""

from __future__ import annotations

import threading
import time

import pytest

from opsd_eval.engines import Request, Sampling, load_engine
from opsd_eval.records import read_jsonl
from opsd_train.config import apply_overrides
from opsd_train.recipes import RECIPES
from opsd_train.stopping import Unhealthy

from .harness import assert_ingests_to, lm_eval, logged
from .serving import NAME, Server

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def base():
    from opsd_eval.testbed import base_path

    return base_path("hunch_r10", 0)


@pytest.fixture(scope="module")
def running(base, tmp_path_factory):
    server = Server(base, tmp_path_factory.mktemp("server") / "log")
    yield server
    server.kill()


@pytest.fixture
def server(running):
    running.up()
    return running


def restart_at(server, path, rows):
    """Kill the server as soon as the file has so many lines, and start it again; says how many there were."""
    seen = []

    def wait():
        while not path.exists() or path.read_bytes().count(b"\n") < rows:
            time.sleep(0.02)
        server.kill()
        seen.append(path.read_bytes())
        server.up()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, seen


def test_a_server_killed_while_sampling_loses_nothing_and_sampling_goes_on(server, base, tmp_path):
    from opsd_eval.cli import main

    out, problems, draws = tmp_path / "set", 30, 8
    thread, seen = restart_at(server, out / "samples.jsonl", 8)
    code = main([
        "sample", NAME, "testbed.hunch_r10.id", "--engine", "server", "--url", server.url, "--tokenizer", str(base),
        "--n", str(draws), "--limit", str(problems), "--batch-size", "4", "--max-new-tokens", "100", "--out", str(out),
    ])  # fmt: skip
    thread.join()
    assert code == 0
    before, after = seen[0], (out / "samples.jsonl").read_bytes()
    assert 8 <= before.count(b"\n") < problems * draws and after.startswith(before)
    rows = list(read_jsonl(out / "samples.jsonl"))
    assert len({(row["problem_id"], row["draw"]) for row in rows}) == len(rows) == problems * draws
    assert len({row["seed"] for row in rows}) == len(rows)


def test_ids_and_log_probabilities_equal_transformers_before_and_after_an_adapter(server, base, tmp_path):
    import peft
    import torch

    from opsd_eval.engines.transformers_engine import TransformersEngine

    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    peft.get_peft_model(TransformersEngine.from_path(base).model, lora).save_pretrained(tmp_path / "one")
    requests = [Request(f"p{i}", draw, (10 + i, 20, 30)) for i in range(4) for draw in range(2)]
    engine = load_engine("server", NAME, url=server.url, tokenizer=base, batch_size=4)
    assert engine.context_length == 256
    for adapter in (None, tmp_path / "one"):
        if adapter:
            engine.use_adapter(adapter)
        local = TransformersEngine.from_path(base, adapter=adapter)
        for stop in ((), tuple(range(60, 90))):
            sampling = Sampling(temperature=0, max_new_tokens=12, stop_token_ids=stop)
            found, expected = (
                {(c.problem_id, c.draw): c for c in e.generate(requests, sampling=sampling, logprobs=True)}
                for e in (engine, local)
            )
            for key, completion in expected.items():
                assert found[key].token_ids == completion.token_ids
                assert found[key].finish_reason == completion.finish_reason
                assert found[key].logp == pytest.approx(completion.logp, abs=1e-3)
    engine.close()
    engine = load_engine("server", NAME, url=server.url, tokenizer=base)  # the server is as it was found
    with pytest.raises(ValueError, match="served model"):
        load_engine("server", f"opsd-{id(engine)}-1", url=server.url, tokenizer=base)


def test_the_server_samples_from_the_student_of_each_step_and_a_stale_adapter_is_caught(server, tmp_path, monkeypatch):
    from opsd_train import trainer

    options = [
        "--rollout.engine", "server", "--rollout.server_url", server.url, "--rollout.server_model", NAME,
        "--model.tuning", "lora", "--model.lora_rank", "8", "--data.limit", "16", "--rollout.max_new_tokens", "48",
        "--rollout.check_every", "1", "--rollout.check_bound", "0.02", "--optim.steps", "3", "--optim.batch_size", "8",
        "--optim.lr", "0.02", "--run.diagnostics_every", "0",
    ]  # fmt: skip
    config = apply_overrides(RECIPES["testbed"](), options)
    trainer.train(config, tmp_path / "fresh")
    rows = list(read_jsonl(tmp_path / "fresh" / "train.jsonl"))
    assert len(rows) == 3 and max(row["engine_gap"] for row in rows) < 0.01 and rows[-1]["kl_base"] > 1e-3
    real = trainer.make_sampler

    def plant(config, policy, out):
        sampler = real(config, policy, out)
        use, heard = sampler.engine.use_adapter, []
        monkeypatch.setattr(sampler.engine, "use_adapter", lambda folder: heard.append(folder) or len(heard) > 1 or use(folder))
        return sampler

    monkeypatch.setattr(trainer, "make_sampler", plant)
    with pytest.raises(Unhealthy, match="stale"):
        trainer.train(config, tmp_path / "stale")


def test_local_completions_draws_differ_and_its_log_ingests_to_the_same_numbers(server, base, tmp_path):
    arguments = (
        f"model={NAME},base_url={server.url}/completions,tokenizer={base},tokenizer_backend=huggingface,"
        "tokenized_requests=True,num_concurrent=4,max_length=256"
    )
    numbers, printed = lm_eval(
        "opsd_testbed_hunch_r10_id", {"problems": 6}, "--model", "local-completions", "--model_args", arguments,
        "--apply_chat_template", out=tmp_path / "out",
    )  # fmt: skip
    assert "N/A" not in printed and numbers["avg@8"] > 0.3
    rows = logged(tmp_path / "out")
    assert len(rows) == 6 and all(len(row["resps"][0]) == 8 for row in rows)
    assert sum(len(set(row["resps"][0])) for row in rows) > 12  # a constant request seed would leave one text a problem
    assert_ingests_to(numbers, tmp_path / "out", tmp_path / "set")
