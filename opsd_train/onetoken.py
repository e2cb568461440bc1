"""One decision point: what every role, and the target, say about the token after a given beginning of a completion.

``next_token_logp(policy, prompts, beginning, method=) -> {role or "target": logp (V,)}``
``token_rows(logp, tokenizer, top=) -> [{token, id, p_student, …, p_target, delta_total, delta_ref, delta_it}]``

Here a beginning may be text of one's own; training never tokenises text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from opsd_train.head import Head, compute_dtype, project
from opsd_train.loss import Method
from opsd_train.policy import Policy
from opsd_train.scoring import completion_hidden
from opsd_train.targets import get_target, log_ratio, normalise

TARGET = "target"


@torch.no_grad()
def next_token_logp(
    policy: Policy, prompts: Mapping[str, Sequence[int]], beginning: Sequence[int], *, method: Method
) -> dict[str, Tensor]:
    """Log-probabilities (V,), nats, of the token after ``beginning``: of every role with a prompt, and ``target``."""
    completion = [*beginning, 0]  # the last id of a completion is predicted and never read
    others = [role for role in prompts if role != "student"]
    was_training = policy.model.training
    policy.model.eval()
    student = policy.run(lambda model: completion_hidden(model, [prompts["student"]], [completion]))
    hidden = {"student": student, **policy.frozen_hidden({role: [prompts[role]] for role in others}, [completion])}
    with policy.initial_head():
        heads = policy.heads(others)
        logp = {role: _last(states, heads[role]) for role, states in hidden.items()}
    policy.model.train(was_training)
    target = get_target(method.target)
    if missing := sorted(target.needs - set(logp)):
        raise ValueError(f"target {target.name!r} needs the roles {missing}; prompts were given for {sorted(logp)}")
    logp[TARGET] = target.combine({role: logp[role] for role in target.needs}, method.params)
    return {name: values[0] for name, values in logp.items()}


def _last(states: Tensor, head: Head) -> Tensor:
    rows, dtype = states[-1:], compute_dtype(states)
    return normalise(project(rows, head, out=torch.empty((1, head.size), dtype=dtype, device=states.device)))


def token_rows(logp: Mapping[str, Tensor], tokenizer: Any, *, top: int = 5) -> list[dict[str, Any]]:
    """One row for each token among the ``top`` of any role or the target, the target's likeliest first.

    ``p_<name>``: probability. ``delta_total`` = log π_T − log π_θ = ``delta_ref`` + ``delta_it``, nats, at this token.
    """
    if top < 1:
        raise ValueError(f"top is {top}; show 1 or more tokens of each role")
    some = {int(i) for values in logp.values() for i in values.topk(min(top, len(values))).indices}
    total, ref, it = (
        log_ratio(logp[one], logp[other])
        for one, other in (("teacher", "student"), ("reference", "student"), ("teacher", "reference"))
    )
    return [
        {
            "token": tokenizer.decode([i]), "id": i,
            **{f"p_{name}": math.exp(float(values[i])) for name, values in logp.items()},
            "delta_total": float(total[i]), "delta_ref": float(ref[i]), "delta_it": float(it[i]),
        }
        for i in sorted(some, key=lambda i: -float(logp[TARGET][i]))
    ]  # fmt: skip


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as an aligned table; control characters are shown, not obeyed."""
    head = [name.removeprefix("p_") if name != "id" else "id" for name in rows[0]]
    cells = [
        [repr(v) if isinstance(v, str) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        for row in rows
    ]
    widths = [max(len(line[at]) for line in [head, *cells]) for at in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
                     for line in [head, *cells])  # fmt: skip
