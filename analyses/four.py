"""The four distributions of a base on its own samples: what mechanism and fork look at, without training anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd_eval.records import Problem

FROZEN: tuple[str, ...] = ("teacher", "reference", "base")


@dataclass(frozen=True)
class Scored:
    """One completion and each role's log-probabilities (T, V) at its tokens; the student is the base itself."""

    problem: Problem
    ids: list[int]
    words: list[str]
    text: str
    finished: bool
    logp: dict[str, Any]


def scored(path: Path | str, world: str, *, n: int, seed: int = 1) -> Iterator[Scored]:
    """``n`` in-distribution problems, one sample each at temperature 1, scored under every role."""
    import torch

    from opsd_eval.engines import load_engine
    from opsd_eval.engines.base import Request, Sampling
    from opsd_eval.testbed import problems
    from opsd_train.contexts import build_prompts
    from opsd_train.head import head_of
    from opsd_train.scoring import completion_hidden

    engine: Any = load_engine("transformers", str(path))
    model, tokenizer = engine.model, engine.tokenizer
    found = problems(world, "id", n, seed)
    prompts = build_prompts(found, tokenizer=tokenizer, context="reference", thinking={}, seed=seed).by_problem
    sampling = Sampling(temperature=1.0, max_new_tokens=128, seed=seed, stop_token_ids=(tokenizer.eos_token_id,))
    requests = [Request(p.problem_id, 0, tuple(prompts[p.problem_id]["student"])) for p in found]
    done = {c.problem_id: c for c in engine.generate(requests, sampling=sampling)}
    for problem in found:
        completion = done[problem.problem_id]
        ids = list(completion.token_ids)
        with torch.no_grad():
            rows = [prompts[problem.problem_id][role] for role in FROZEN]
            hidden = completion_hidden(model, rows, [ids] * len(FROZEN)).double()
            logits = hidden @ head_of(model).weight.double().T
        parts = torch.log_softmax(logits, dim=-1).chunk(len(FROZEN))
        words, text = tokenizer.convert_ids_to_tokens(ids), tokenizer.decode(ids, skip_special_tokens=True)
        logp = dict(zip(FROZEN, parts, strict=True))
        yield Scored(problem, ids, words, text, completion.finish_reason == "stop", logp)


def word_ids(path: Path | str) -> dict[str, int]:
    """Token id of each word of a testbed base."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path).get_vocab()
