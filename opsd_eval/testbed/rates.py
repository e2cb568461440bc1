"""Is a base what its corpus says? The same rates, of corpus traces and of the base's own samples, side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opsd_eval.records import Problem
from opsd_eval.testbed.chains import Chain, Search
from opsd_eval.testbed.reading import Mechanism, mechanism, words_of
from opsd_eval.testbed.traces import hunch_trace, search_trace, slips_trace
from opsd_eval.testbed.worlds import problems, world

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROLES: dict[str, Callable[[Problem], str]] = {
    "student": lambda p: p.question,
    "teacher": lambda p: f"{p.question} {p.reference}",
    "reference": lambda p: str(p.reference),
}
RATES = ("accuracy", "p_check", "accuracy_given_check", "step_accuracy", "p_wait_given_mismatch", "slip_rate")


def rates_of(pairs: Iterable[tuple[Problem, str]]) -> dict[str, float | None]:
    """Pooled rates of completions and their mean length in words; ``None`` where nothing counts."""
    read: list[tuple[Mechanism, bool, int]] = [(mechanism(p, t), is_right(p, t), len(t.split())) for p, t in pairs]
    checked = [right for m, right, _ in read if m.checked]
    return {
        "accuracy": _share(sum(right for _, right, _ in read), len(read)),
        "p_check": _share(len(checked), len(read)),
        "accuracy_given_check": _share(sum(checked), len(checked)),
        "step_accuracy": _share(sum(m.right_steps for m, _, _ in read), sum(m.steps for m, _, _ in read)),
        "p_wait_given_mismatch": _share(sum(m.waits for m, _, _ in read), sum(m.mismatches for m, _, _ in read)),
        "slip_rate": _share(sum(m.slips for m, _, _ in read), sum(m.attempts for m, _, _ in read)),
        "words": _share(sum(words for *_, words in read), len(read)),
    }


def corpus_rates(world_name: str, *, role: str, split: str = "id", n: int = 500, seed: int = 0) -> dict:
    """Rates of ``n`` corpus-style traces for problems of a split: what a perfect base would show.

    Hunches of question-only traces are right more often than a base can make them (``hunch_right``).
    """
    place, rng = world(world_name), random.Random(f"rates/{seed}")
    found = problems(world_name, split, n, seed)
    hunches = [int(p.answer or 0) for p in found]
    tag = None if role == "student" else place.tag
    pairs = []
    for p in found:
        operations = tuple((s, o) for s, o in p.metadata["operations"])
        if place.family == "search":
            item = Search(tuple(p.metadata["candidates"]), operations, int(p.answer or 0))
            pairs.append((p, search_trace(item, rng, tag=tag)))
            continue
        chain = Chain(p.metadata["start"], operations)
        if place.family == "hunch":
            pairs.append((p, hunch_trace(chain, rng, tag=tag, hunches=hunches)))
        else:
            pairs.append((p, slips_trace(chain, rng, tag=tag)))
    return rates_of(pairs)


def sampled_rates(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world_name: str, *,
    role: str = "student", split: str = "id", n: int = 100, draws: int = 4, seed: int = 0,
) -> dict:  # fmt: skip
    """Rates of a base's samples at temperature 1 under one role's prompt (``ROLES``)."""
    from opsd_eval.engines.base import Request, Sampling
    from opsd_eval.engines.transformers_engine import TransformersEngine
    from opsd_eval.prompts import chat_prompt_ids

    found = {p.problem_id: p for p in problems(world_name, split, n, seed)}
    prompts = {name: tuple(chat_prompt_ids(tokenizer, ROLES[role](p))) for name, p in found.items()}
    requests = [Request(name, draw, ids) for name, ids in prompts.items() for draw in range(draws)]
    drawn = TransformersEngine(model, tokenizer).generate(requests, sampling=Sampling(max_new_tokens=192, seed=seed))
    texts = ((c.problem_id, str(tokenizer.decode(list(c.token_ids), skip_special_tokens=True))) for c in drawn)
    return rates_of((found[name], text) for name, text in texts)


def is_right(problem: Problem, text: str) -> bool:
    """Whether the last boxed value is the answer."""
    words = words_of(text)
    answers = [words[at + 1] for at, word in enumerate(words[:-2]) if word == "\\boxed{" and words[at + 2] == "}"]
    return bool(answers) and answers[-1] == problem.answer


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
