"""vLLM with a real model: its log-probabilities, adapters swapped while it runs, and rollouts for the trainer.

The engine's contract on tiny models is in ``tests/opsd_eval/test_engines_vllm.py``.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from opsd_eval.benchmarks import load_benchmark
from opsd_eval.engines import Request, Sampling, load_engine
from opsd_eval.engines.loading import load_model
from opsd_eval.prompts import student_prompt_ids

from .short import SUMS, short_config

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def trained(smollm2, tmp_path_factory):
    """Two steps with rollouts by vLLM, the engine held against the trainer at each."""
    from opsd_train.trainer import train

    out = tmp_path_factory.mktemp("vllm") / "run"
    train(short_config(smollm2, "--rollout.engine", "vllm", "--optim.lr", "0.01"), out)
    return out


def test_rollouts_by_vllm_follow_the_student(trained):
    rows = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    # the second step's rollouts are of an updated student: without the new adapter the gap would be that of the update
    assert all(row["engine_gap"] < 1e-3 for row in rows) and rows[1]["kl_base"] > 1e-4


def test_swapped_adapters_and_log_probabilities_equal_transformers(trained, smollm2):
    engine = load_engine("vllm", smollm2, adapters=True, max_lora_rank=8, dtype="float32", max_model_len=256)
    requests = [
        Request(p.problem_id, 0, tuple(student_prompt_ids(engine.tokenizer, p)))
        for p in load_benchmark(SUMS, limit=4, split="test")
    ]
    adapter, found = trained / "checkpoints/step-000002", {}
    for name, used in {"base": None, "tuned": adapter, "base again": None}.items():
        engine.use_adapter(used)
        sampling = Sampling(temperature=0, max_new_tokens=12)
        found[name] = {c.problem_id: c for c in engine.generate(requests, sampling=sampling, logprobs=True)}
        model = load_model(smollm2, adapter=used, dtype=torch.float32)
        for request in requests:
            completion = found[name][request.problem_id]
            ids = [*request.prompt_ids, *completion.token_ids]
            with torch.no_grad():
                logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            at = torch.arange(len(request.prompt_ids) - 1, len(ids) - 1)
            np.testing.assert_allclose(completion.logp, logp[at, torch.tensor(completion.token_ids)], atol=1e-3)
    engine.close()
    tokens = {name: [c.token_ids for c in rows.values()] for name, rows in found.items()}
    assert sorted(tokens["base"]) == sorted(tokens["base again"]) != sorted(tokens["tuned"])
