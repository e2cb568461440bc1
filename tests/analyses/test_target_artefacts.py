"""Mechanism, fork, verdict, regime: what they compute, by hand and against the library."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from analyses import fork_bases, mechanism, write_up_targets
from opsd_train.targets import TARGETS, TargetParams


def rows(seed=0, size=12):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.log_softmax(2 * torch.randn(size, generator=generator, dtype=torch.float64), 0)  # noqa: E731
    return {"teacher": draw(), "reference": draw(), "base": draw()}


def test_the_shift_is_what_the_purified_target_does_to_the_log_odds():
    given, right, wrong = rows(), 3, torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11])
    found = mechanism.at_one_token(given, right, wrong, torch.Generator().manual_seed(0))
    target = TARGETS["purified"].combine({role: value[None] for role, value in given.items()}, TargetParams())[0]

    def log_odds(logp):
        return float(logp[right] - torch.logsumexp(logp[wrong], 0))

    assert found["shift"] == pytest.approx(log_odds(target) - log_odds(given["base"]))
    assert found["jensen"] > 0 and found["shift"] == pytest.approx(-found["m_weighted"] - found["jensen"])


def test_without_spread_over_wrong_values_nothing_is_lost_to_jensen():
    flat = torch.full((12,), -math.log(12), dtype=torch.float64)
    teacher = torch.log_softmax(torch.tensor([2.0] + [0.0] * 11, dtype=torch.float64), 0)
    given = {"teacher": teacher, "reference": flat, "base": flat}
    found = mechanism.at_one_token(given, 0, torch.arange(1, 12), torch.Generator().manual_seed(0))
    assert found["jensen"] == pytest.approx(0.0, abs=1e-12) and found["m"] == pytest.approx(found["m_weighted"])
    assert found["shift"] == pytest.approx(-found["m"]) and found["shift"] > 0 and found["sharper"] == 0.0


@pytest.mark.parametrize("seed", fork_bases.SEEDS)
def test_the_swapped_base_is_the_same_network_with_words_exchanged(seed):
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    plain, swapped = (fork_bases.FOLDER / f"{name}_s{seed}" for name in ("fork", "fork_swapped"))
    one, other = (load_file(folder / "model.safetensors") for folder in (plain, swapped))
    vocabulary = AutoTokenizer.from_pretrained(plain).get_vocab()
    order = list(range(len(vocabulary)))
    for a, b in fork_bases.SWAPS:
        order[vocabulary[a]], order[vocabulary[b]] = vocabulary[b], vocabulary[a]
    (table,) = [name for name in one if "embed_tokens" in name]
    assert torch.equal(one[table][order], other[table]) and not torch.equal(one[table], other[table])
    assert all(torch.equal(one[name], other[name]) for name in one if name != table)


def test_the_forks_corpus_is_what_its_name_says():
    from opsd_eval.testbed.vocabulary import build_tokenizer

    tokenizer, kinds = build_tokenizer(), {"": [], "r10": [], "r100": []}
    stream = fork_bases.corpus(tokenizer, seed=0)
    for _ in range(600):
        ids, prompt = next(stream)
        words = tokenizer.convert_ids_to_tokens(ids)
        tag = next((tag for tag in ("r10", "r100") if tag in words[:prompt]), "")
        kinds[tag].append("check" in words[prompt:])
    shares = {tag: sum(checks) / len(checks) for tag, checks in kinds.items()}
    assert shares["r10"] == 0 and shares["r100"] == 1 and 0.4 < shares[""] < 0.6


def test_signs_count_bases_whose_direction_was_promised():
    frame = pd.DataFrame({
        "m": [-1.0, -1.0, 1.0], "m_weighted": [-1.0, -1.0, 1.0], "shift": [1.0, -1.0, -1.0],
        "d_step_accuracy": [0.1, -0.1, -0.01], "d_step_accuracy_low": [0.05, -0.2, -0.05],
        "d_step_accuracy_high": [0.15, -0.05, 0.03],
    })  # fmt: skip
    table = write_up_targets.signs(frame)
    assert "| `m` | 1 of 2 bases | 2 of 3 bases |" in table
    assert "| `shift` | 2 of 2 bases | 3 of 3 bases |" in table
