"""Bases that know two families of problems, for off-task forgetting: what does training on one do to the other?

``two_s<seed>``: the shipped search base (which was a hunch base before) trained on for 400 steps on traces of hunch and
of search, half and half, under the prompts of both corpora. The question tells them apart ("start …", "find x in …").

``python -m analyses.two_family_bases`` makes those that are not in ``analyses/bases`` (some three minutes each).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from opsd_eval.testbed.design import DESIGN, design_values
from opsd_eval.testbed.vocabulary import build_tokenizer
from opsd_train.pretrain import PretrainConfig, base_rates, corpus_rows, first_model, fit, save_base

FOLDER = Path(__file__).parent / "bases"
SEEDS = (0, 1, 2)
FAMILIES = ("hunch", "search")
TRAINING = PretrainConfig(steps=400, lr=1e-3, warmup=20, pool=20_000, after="search")


def corpus(tokenizer: Any, *, seed: int) -> Iterator[tuple[list[int], int]]:
    """Endless (token ids, number of prompt ids): traces of either family with equal chance."""
    rng = random.Random(f"two/{seed}")
    rows = [corpus_rows(family, tokenizer, seed=seed, pool=TRAINING.pool) for family in FAMILIES]
    while True:
        yield next(rng.choice(rows))


def make(seed: int, folder: Path = FOLDER) -> Path:
    """Train ``two_s<seed>`` and write it; returns its folder."""
    import torch

    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = first_model(tokenizer, TRAINING, seed=seed)
    loss = fit(model, corpus(tokenizer, seed=seed), TRAINING, pad=tokenizer.pad_token_id)  # pyright: ignore[reportArgumentType]
    record = {
        "families": FAMILIES, "seed": seed, "training": asdict(TRAINING), "final_loss": loss,
        "design": {family: design_values(family, DESIGN) for family in FAMILIES},
        "rates": {family: base_rates(model, tokenizer, family) for family in FAMILIES},
    }  # fmt: skip
    out = folder / f"two_s{seed}"
    save_base(model, tokenizer, record, out=out)
    return out


if __name__ == "__main__":
    for base_seed in SEEDS:
        if not (FOLDER / f"two_s{base_seed}" / "base.json").exists():
            print(make(base_seed), flush=True)
