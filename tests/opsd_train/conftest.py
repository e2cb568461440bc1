"""A tiny random Qwen3 with the testbed's tokenizer, saved as a folder, and configs that train on it in seconds."""

from __future__ import annotations

import json

import pytest
import torch

from opsd_train.config import TrainConfig, apply_overrides

torch.set_num_threads(1)

COMMON = """\
--model.tuning full --model.dtype float32 --model.gradient_checkpointing false
--data.benchmark testbed.hunch_r10.train --data.limit 40 --data.max_prompt_tokens 128 --rollout.max_new_tokens 12
--optim.steps 4 --optim.batch_size 6 --optim.micro_batch_size 3 --optim.lr 1e-2 --run.threads 1
--run.checkpoint_every 2 --run.diagnostics_every 3 --run.diagnostics_tokens 24 --run.base_kl every_step"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    from opsd_eval.testbed.vocabulary import build_tokenizer
    from opsd_train.pretrain import PretrainConfig, build_model

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = build_tokenizer()
    shape = PretrainConfig(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=32, mlp=48)
    model = build_model(tokenizer, shape, seed=0)
    with torch.no_grad():  # sharpen the random model, so that its prompts matter
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_model) -> TrainConfig:
    """Purified, full fine-tuning, four steps of six rollouts."""
    return apply_overrides(TrainConfig(), ["--model.path", str(tiny_model), *COMMON.split()])


def log_rows(out):
    """Rows of ``train.jsonl`` without the seconds, which are the machine's and not the run's."""
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
