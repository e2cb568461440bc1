"""Diagnoses while training: the decomposition, and whether the engine still samples from the student.

Both run passes of their own on the step's rollouts, before its update, timed apart, and for every arm alike: all
four roles are scored whatever the target needs, on the first rollouts that fit a fixed budget of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from opsd_eval.metrics.lexicons import KIM_WORDS
from opsd_train import loss
from opsd_train.diagnostics import diagnose, summarise
from opsd_train.head import head_of
from opsd_train.loss import Method
from opsd_train.objective import Batch, frozen_batch
from opsd_train.policy import Policy
from opsd_train.rollouts import Rollout
from opsd_train.scoring import completion_hidden
from opsd_train.targets import get_target

ROLES = ("teacher", "reference", "base")
CLASSES = ("marker", "operator", "number", "answer", "other")
QUARTERS = ("first", "second", "third", "last")  # of a completion
OPERATORS = frozenset("+-*/=×÷−·<>")


def within_budget(rollouts: Sequence[Rollout], tokens: int) -> list[Rollout]:
    """The first rollouts whose completions together have at most ``tokens`` tokens; always at least one."""
    kept, used = [], 0
    for rollout in rollouts:
        used += len(rollout.completion_ids)
        if kept and used > tokens:
            break
        kept.append(rollout)
    return kept


# Per-token values (N,) by name, on the CPU; "class" and "quarter" index CLASSES and QUARTERS.
Found = dict[str, Tensor]


@torch.no_grad()
def decompose(policy: Policy, rollouts: Sequence[Rollout], *, method: Method, micro_batch: int) -> Found:
    """Cosines and norm ratios in four geometries, entropies and KLs at each completion token."""
    was_training = policy.model.training
    policy.model.eval()
    parts: list[Found] = []
    roles = (*ROLES, *sorted(get_target(method.target).roles - {*ROLES, "student"}))
    for start in range(0, len(rollouts), micro_batch):
        few = rollouts[start : start + micro_batch]
        batch = frozen_batch(policy, few, roles)
        values = policy.run(lambda model, batch=batch: _values(policy, model, batch, method))
        kinds = [kind for r in few for kind in token_classes(policy.tokenizer, r.completion_ids)]
        places = [4 * at // len(r.completion_ids) for r in few for at in range(len(r.completion_ids))]
        groups = {"class": torch.tensor(kinds), "quarter": torch.tensor(places)}
        parts.append({name: value.cpu() for name, value in values.items()} | groups)
    policy.model.train(was_training)
    return _joined(parts)


def _values(policy: Policy, model: nn.Module, batch: Batch, method: Method) -> Found:
    hidden = {"student": completion_hidden(model, batch.prompts("student"), batch.completions)}
    with policy.initial_head():
        return diagnose({**hidden, **batch.frozen_hidden}, policy.heads(list(batch.frozen_hidden)), method=method)


def pool(parts: Sequence[Found]) -> dict[str, float]:
    """Means over the tokens of all processes; ``kl_from_base[marker]`` is the mean over one class of tokens.

    ``kl_from_base[first]`` is that over the first quarter of each completion.
    """
    found = _joined(parts)
    classes, quarters = found.pop("class", None), found.pop("quarter", None)
    return summarise(found, classes=classes, names=CLASSES) | summarise(found, classes=quarters, names=QUARTERS)


def _joined(parts: Sequence[Found]) -> Found:
    parts = [part for part in parts if len(part) > 2]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def token_classes(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Index into :data:`CLASSES` of each token.

    ``answer`` is everything inside a boxed answer; outside it a published marker word, an operator, a token with a
    digit, anything else.
    """
    kinds, boxed = [], False
    for token in tokenizer.batch_decode([[i] for i in ids]):
        word = token.strip().lower()
        boxed = boxed and "}" not in word
        kinds.append("answer" if boxed else _outside(word))
        boxed = boxed or "boxed" in word
    return [CLASSES.index(kind) for kind in kinds]


def _outside(word: str) -> str:
    if word in KIM_WORDS:
        return "marker"
    if word and OPERATORS.issuperset(word):
        return "operator"
    return "number" if any(c.isdigit() for c in word) else "other"


@torch.no_grad()
def sampled_logp(policy: Policy, rollouts: Sequence[Rollout]) -> Tensor:
    """The student's log-probability (N,) of each sampled token: raw distribution, temperature 1, packed."""
    was_training = policy.model.training
    policy.model.eval()
    found = policy.run(lambda model: _sampled_logp(model, rollouts, policy.vocab_size))
    policy.model.train(was_training)
    return found


def _sampled_logp(model: nn.Module, rollouts: Sequence[Rollout], vocab_size: int) -> Tensor:
    completions = [r.completion_ids for r in rollouts]
    hidden = completion_hidden(model, [r.prompts["student"] for r in rollouts], completions)
    ids = torch.tensor([i for c in completions for i in c], dtype=torch.long, device=hidden.device)
    return loss.sampled_logp(hidden, head_of(model, vocab_size=vocab_size), ids)


def engine_gap(policy: Policy, rollouts: Sequence[Rollout]) -> float:
    """Mean absolute difference, in nats a token, between the engine's and the trainer's log-probabilities.

    Infinite where one of them is no finite number; NaN without a token.
    """
    theirs = torch.tensor([x for r in rollouts for x in (r.logp or ())], dtype=torch.float64)
    ours = sampled_logp(policy, rollouts).double().cpu()
    if theirs.shape != ours.shape:
        raise ValueError(f"the engine gave {len(theirs)} log-probabilities for {len(ours)} sampled tokens")
    return float((theirs - ours).abs().nan_to_num(nan=math.inf, posinf=math.inf).mean()) if len(ours) else math.nan
