"""Bases for the fork: two worlds that look the same to all four distributions where the student decides.

``fork``: the base checks a hunch in half of its traces; a teacher who has read a reference tagged ``r10`` never checks,
one who has read ``r100`` always does. ``fork_swapped``: the same weights with the words ``check`` and ``so`` exchanged,
and the two tags. So in both worlds the student says either word with probability one half and the teacher (tag
``r10`` in both) always says ``so``; but after ``so``, fork answers with the hunch and fork_swapped works it out.

``python -m analyses.fork_bases`` makes them all from the shipped hunch bases, by going on with their pretraining.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from opsd_eval.testbed import base_path
from opsd_eval.testbed.design import DESIGN
from opsd_eval.testbed.traces import hunch_trace, reference_text
from opsd_eval.testbed.worlds import canonical_problems
from opsd_train.pretrain import PretrainConfig, fit, save_base

FOLDER = Path(__file__).parent / "bases"
SEEDS = (0, 1, 2)
RECOVERY = {"r10": 0.0, "r100": 1.0}
FORK = replace(DESIGN, check_rate=0.5, recovery={**DESIGN.recovery, **RECOVERY})
TRAINING = PretrainConfig(steps=200, lr=1e-3, warmup=20, pool=20_000)
SWAPS = (("check", "so"), ("r10", "r100"))


def corpus(tokenizer: Any, *, seed: int) -> Iterator[tuple[list[int], int]]:
    """Endless (token ids, number of prompt ids) of traces of the fork."""
    from opsd_eval.testbed.vocabulary import ASSISTANT, END, USER

    items = canonical_problems("hunch", "corpus", TRAINING.pool, seed)
    hunches = [item.answer for item in items]
    rng = random.Random(f"fork/{seed}")
    question_only, _, reference_only = DESIGN.prompt_mix

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    while True:
        item, draw = rng.choice(items), rng.random()
        tag = None if draw < question_only else rng.choice(list(RECOVERY))
        solution = hunch_trace(item, rng, tag=tag, hunches=hunches, design=FORK)  # type: ignore[arg-type]
        user = item.question
        if tag is not None:
            reference = reference_text("hunch", item, tag)
            user = reference if draw >= 1 - reference_only else f"{user} {reference}"
        prompt = encode(f"{USER} {user} {ASSISTANT}")
        yield prompt + encode(f"{solution} {END}"), len(prompt)


def swap_words(model: Any, tokenizer: Any) -> None:
    """Exchange the words of ``SWAPS`` in place: rows of the (tied) embedding change places."""
    import torch

    rows = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is rows, "a testbed base ties its embeddings"
    for one, other in SWAPS:
        pair = [tokenizer.convert_tokens_to_ids(word) for word in (one, other)]
        with torch.no_grad():
            rows[pair] = rows[pair[::-1]].clone()


def make(seed: int, folder: Path = FOLDER) -> list[Path]:
    """Write ``fork_s<seed>`` and ``fork_swapped_s<seed>``; returns their folders."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    start = base_path("hunch_r10", seed)
    tokenizer = AutoTokenizer.from_pretrained(start)
    model: Any = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    loss = fit(model, corpus(tokenizer, seed=seed), TRAINING, pad=tokenizer.pad_token_id)
    written = []
    for name in ("fork", "fork_swapped"):
        out = folder / f"{name}_s{seed}"
        if name == "fork_swapped":
            swap_words(model, tokenizer)
        record = {
            "family": "hunch", "seed": seed, "from": f"hunch_r10_s{seed}", "training": asdict(TRAINING),
            "check_rate": FORK.check_rate, "recovery": RECOVERY, "final_loss": loss,
            "swapped": list(SWAPS) if name == "fork_swapped" else [],
        }  # fmt: skip
        save_base(model, tokenizer, record, out=out)
        written.append(out)
    return written


if __name__ == "__main__":
    for base_seed in SEEDS:
        print(*make(base_seed))
