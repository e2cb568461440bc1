"""The loss over blocks of positions: memory for a few positions' vocabularies, never for all of them.

``chunked_loss(hidden {role: (N, D)}, heads {role: Head}, method=Method(...), n_tokens=global count,
               weights=(N,) | None, chunk=None) -> LossOutput(loss, n_tokens, stats {name: (N,)})``
``loss`` = Σ_t w_t·ℓ_t / n_tokens, differentiable by ``hidden["student"]`` and, where trained, the student's head.

Legend: N completion tokens packed over rollouts (no padding), D hidden, V real vocabulary, C positions of a block.
Each block: one matrix product for all roles that share a head, then row by row in cache: log-softmax, target,
divergence, and the gradient written over the student's logits; then one product back to the hidden gradient.
The gradient is exact and computed in the forward pass, so backward only scales it. A (V, D) buffer for the head's
gradient exists only if the head is trained. All arithmetic is float32 (float64 if the hidden states are).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from opsd_train.divergence import Divergence, token_divergence
from opsd_train.head import (
    Head,
    add_head_gradient,
    compute_dtype,
    keep_freed_memory,
    project,
    project_back,
    project_roles,
)
from opsd_train.targets import LOGP_FLOOR, OUTCOME, Target, TargetParams, get_target, normalise

# Logits of all roles for one block of positions, bytes; and entries handled at once by elementwise work. On a processor
# a temporary of a few MiB stays inside the cache; a GPU wants large products and few kernels.
_BLOCK_BYTES = {"cpu": 160 << 20, "cuda": 512 << 20}
_ROW_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
_MIN_POSITIONS, _MAX_POSITIONS = 16, 1024


@dataclass(frozen=True)
class Method:
    """The loss as data: which target, with which numbers, and how the student is compared with it."""

    target: str = "purified"
    params: TargetParams = field(default_factory=TargetParams)
    divergence: Divergence = field(default_factory=Divergence)

    def __post_init__(self) -> None:
        get_target(self.target)


class Outcome(NamedTuple):
    """The sampled token id of each position and its completion's advantage, (N,) each, for targets that read them."""

    sampled: Tensor
    advantage: Tensor


@dataclass(frozen=True)
class LossOutput:
    """``loss``: scalar, Σ w·ℓ / n_tokens. ``n_tokens``: the divisor. ``stats``: detached float32 (N,) tensors.

    stats: ``loss`` (unweighted divergence, nats), ``student_entropy`` (nats), ``clipped`` (share of capped
    entries), ``negative`` (1 where the token's loss is below 0, NaN-free), and ``kl_from_base`` =
    KL(student ‖ base) in nats if the base was scored.
    """

    loss: Tensor
    n_tokens: float
    stats: dict[str, Tensor]


def chunked_loss(
    hidden: Mapping[str, Tensor],
    heads: Mapping[str, Head] | Head,
    *,
    method: Method,
    n_tokens: float | None = None,
    weights: Tensor | None = None,
    outcome: Outcome | None = None,
    chunk: int | None = None,
) -> LossOutput:
    """Weighted divergence of the student from the target, summed over N tokens, divided by ``n_tokens``.

    ``hidden``: (N, D) by role: ``student`` (with gradient) and every role the target needs; ``base`` may be given
    besides, for its KL. ``heads``: one head for all, or by role with at least ``student`` (missing roles use the
    student's weights without gradient). ``n_tokens``: valid tokens of the whole step, over all micro-batches and
    processes; None counts these N. ``weights``: (N,) or None for all 1; weight 0 masks a token out. ``outcome``:
    for targets that need it. ``chunk``: positions whose vocabularies exist at once; None chooses by size. No token
    at all, or all masked: loss 0, gradient 0. Source: masked token mean of arXiv 2601.18734. Differs: exact, in blocks.
    """
    if isinstance(heads, Head):
        heads = {"student": heads}
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; give 1 or more positions, or None to choose by size")
    target, own, n = get_target(method.target), heads["student"], hidden["student"].shape[0]
    roles = _roles(target, hidden)
    if weights is not None and weights.shape != (n,):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; they need one number a token, ({n},)")
    if n_tokens is not None and n_tokens < 0:
        raise ValueError(f"n_tokens is {n_tokens}; give the step's number of valid tokens, 0 or more")
    divisor = float(n if n_tokens is None else n_tokens)
    if OUTCOME in target.needs and outcome is None:
        raise ValueError(f"target {target.name!r} reads how completions ended; pass outcome=Outcome(ids, advantage)")
    frozen = {role: hidden[role].detach() for role in roles}
    by_role = {role: heads.get(role, own).detached() for role in ("student", *roles)}
    if len({head.size for head in by_role.values()}) > 1:
        sizes = {role: head.size for role, head in by_role.items()}
        raise ValueError(f"the roles' output heads have different vocabularies {sizes}; all must be the student's")
    job = _Job(method, target, roles, frozen, by_role, weights, outcome, 1.0 / max(divisor, 1.0), chunk)
    loss = _BlockLoss.apply(hidden["student"], own.weight, own.bias, job)
    return LossOutput(loss, divisor, job.stats)  # type: ignore[arg-type]


def _roles(target: Target, hidden: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The frozen roles to project, sorted; missing ones and unequal lengths are errors."""
    if missing := sorted((target.needs | {"student"}) - {OUTCOME} - set(hidden)):
        raise ValueError(
            f"target {target.name!r} needs the roles {sorted(target.needs)}; {missing} were not scored "
            f"(given: {sorted(hidden)})"
        )
    roles = tuple(sorted((target.needs | ({"base"} & set(hidden))) - {"student", OUTCOME}))
    for role in roles:
        if hidden[role].shape != hidden["student"].shape:
            raise ValueError(
                f"role {role!r} has hidden states of shape {tuple(hidden[role].shape)}, the student "
                f"{tuple(hidden['student'].shape)}; every role must score the same completion tokens"
            )
    return roles


@dataclass
class _Job:
    """What one call computes with, and the per-token statistics it leaves behind."""

    method: Method
    target: Target
    roles: tuple[str, ...]
    frozen_hidden: dict[str, Tensor]
    heads: dict[str, Head]
    weights: Tensor | None
    outcome: Outcome | None
    scale: float
    chunk: int | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)


def block_positions(n_roles: int, vocab_size: int, itemsize: int = 4, *, device: str = "cpu") -> int:
    """Most positions in one block: a multiple of 16, at least 16.

    All roles' logits then take at most 160 MiB, on a GPU (``device`` is a torch device's type) 512 MiB.
    """
    fitting = _BLOCK_BYTES.get(device, _BLOCK_BYTES["cpu"]) // (n_roles * vocab_size * itemsize)
    return min(_MAX_POSITIONS, max(_MIN_POSITIONS, fitting - fitting % 16))


def even_blocks(n: int, most: int) -> int:
    """Positions a block so that ``n`` of them fall into blocks of equal size, none above ``most``: no small rest."""
    return -(-n // -(-n // most)) if n else 1


def row_positions(vocab_size: int, *, device: str = "cpu") -> int:
    """Positions handled at once by elementwise work."""
    return max(1, _ROW_ELEMENTS.get(device, _ROW_ELEMENTS["cpu"]) // vocab_size)


class _BlockLoss(torch.autograd.Function):
    """Forward computes loss and gradients block by block; backward multiplies them by the incoming scalar."""

    @staticmethod
    def forward(ctx: Any, student_hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dtype = compute_dtype(student_hidden)
        grads = (
            torch.zeros_like(student_hidden) if need_hidden else None,
            torch.zeros_like(weight, dtype=dtype) if need_weight else None,
            torch.zeros_like(bias, dtype=dtype) if need_bias and bias is not None else None,
        )
        n, vocab = student_hidden.shape[0], job.heads["student"].size
        loss_rows = student_hidden.new_zeros(n, dtype=dtype)
        _start_stats(job, student_hidden)
        keep_freed_memory(student_hidden.device)
        most = block_positions(1 + len(job.roles), vocab, dtype.itemsize, device=student_hidden.device.type)
        step = job.chunk or even_blocks(n, most)
        step = min(step, max(n, 1))
        names = 1 + len(job.roles)
        buffer = torch.empty(names * step * vocab, dtype=dtype, device=student_hidden.device)
        for start in range(0, n, step):
            at = slice(start, min(start + step, n))
            logits = buffer[: names * (at.stop - start) * vocab].view(names, at.stop - start, vocab)
            _block(student_hidden, job, at, logits, loss_rows, grads)
        ctx.grads = grads
        return loss_rows.sum().mul_(job.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        if ctx.grads is None:
            raise RuntimeError("backward a second time through one chunked loss: its gradients were handed out already")
        scale = grad_outputs[0]
        grads = tuple(None if g is None else g.mul_(scale.to(g.dtype)) for g in ctx.grads)
        ctx.grads = None
        return (*grads, None)


def _start_stats(job: _Job, like: Tensor) -> None:
    names = ["loss", "student_entropy", "clipped", "negative"] + ["kl_from_base"] * ("base" in job.roles)
    job.stats = {name: like.new_zeros(like.shape[0], dtype=torch.float32) for name in names}


def _block(
    student_hidden: Tensor, job: _Job, at: slice, logits: Tensor, loss_rows: Tensor, grads: tuple[Tensor | None, ...]
) -> None:
    """One block of positions: logits of every role, loss and statistics by rows, then the gradients."""
    names = ("student", *job.roles)
    hidden = {"student": student_hidden[at]} | {role: job.frozen_hidden[role][at] for role in job.roles}
    project_roles(hidden, job.heads, names, out=logits)
    step = row_positions(logits.shape[-1], device=logits.device.type)
    for start in range(0, logits.shape[1], step):
        rows = slice(start, min(start + step, logits.shape[1]))
        _rows(job, names, logits[:, rows], slice(at.start + rows.start, at.start + rows.stop), loss_rows, grads)
    if grads[0] is not None:
        grads[0][at] = project_back(logits[0], job.heads["student"]).to(grads[0].dtype)
    if grads[1] is not None or grads[2] is not None:
        rows_hidden = hidden["student"].detach()
        if job.weights is not None:  # a masked token's gradient is 0, and 0 times an infinite state would not be
            rows_hidden = rows_hidden.masked_fill((job.weights[at] == 0)[:, None], 0.0)
        add_head_gradient(logits[0], rows_hidden, weight=grads[1], bias=grads[2])


def _rows(
    job: _Job, names: tuple[str, ...], logits: Tensor, at: slice, loss_rows: Tensor, grads: tuple[Tensor | None, ...]
) -> None:
    """A few rows at once: the gradient by the student's logits replaces the logits; statistics are stored."""
    logp = {name: torch.log_softmax(logits[i], dim=-1).clamp_(min=LOGP_FLOOR) for i, name in enumerate(names)}
    student_logp, student_prob = _exact_(logp["student"])  # the others' normalisers cancel, or err by 3e-6
    if job.outcome is not None:
        advantage = job.outcome.advantage[at, None].to(student_logp.dtype)
        logp[OUTCOME] = torch.zeros_like(student_logp).scatter_(1, job.outcome.sampled[at, None], advantage)
    target_logp = job.target.combine({role: logp[role] for role in job.target.needs}, job.method.params)
    result = token_divergence(
        target_logp, student_logp, job.method.divergence, student_prob=student_prob,
        gradient=any(g is not None for g in grads),
    )  # fmt: skip
    weights = None if job.weights is None else job.weights[at].to(logits.dtype)
    loss_rows[at] = result.value if weights is None else torch.where(weights == 0, 0.0, result.value * weights)
    if result.grad_logits is not None:
        torch.mul(result.grad_logits, job.scale if weights is None else weights[:, None] * job.scale, out=logits[0])
        if weights is not None:
            logits[0].masked_fill_((weights == 0)[:, None], 0.0)
    negative_entropy = torch.linalg.vecdot(student_prob, student_logp)
    job.stats["loss"][at] = result.value.float()
    job.stats["student_entropy"][at] = -negative_entropy.float()
    job.stats["clipped"][at] = result.clipped.float()
    job.stats["negative"][at] = (result.value < 0).float()
    if "kl_from_base" in job.stats:
        base_logp, _ = _exact_(logp["base"])  # normalised like the student's, so that equal distributions give 0
        cross = torch.linalg.vecdot(student_prob, base_logp)
        job.stats["kl_from_base"][at] = (negative_entropy - cross).float()


def _exact_(logp: Tensor) -> tuple[Tensor, Tensor]:
    """(logp, its exponential) with rows shifted in place to sum to 1; see :func:`opsd_train.targets.normalise`."""
    prob = logp.exp()
    total = prob.sum(-1, keepdim=True)
    return logp.sub_(total.log()).clamp_(min=LOGP_FLOOR), prob.div_(total)


@torch.no_grad()
def student_entropy(hidden: Tensor, head: Head) -> Tensor:
    """Entropy in nats of softmax(hidden @ weight.T) at each of N positions, (N,) float32, in blocks, no gradient."""
    keep_freed_memory(hidden.device)
    dtype = compute_dtype(hidden)
    entropy = hidden.new_zeros(hidden.shape[0], dtype=torch.float32)
    step = block_positions(1, head.size, dtype.itemsize, device=hidden.device.type)
    for start in range(0, hidden.shape[0], step):
        rows = hidden[start : start + step]
        logits = project(rows, head, out=torch.empty((rows.shape[0], head.size), dtype=dtype, device=hidden.device))
        logp = normalise(logits)
        entropy[start : start + step] = -torch.linalg.vecdot(logp.exp(), logp).float()
    return entropy


@torch.no_grad()
def sampled_logp(hidden: Tensor, head: Head, ids: Tensor) -> Tensor:
    """Log-probability of token ``ids[n]`` after state n, (N,) in the compute precision, in blocks, no gradient."""
    keep_freed_memory(hidden.device)
    dtype = compute_dtype(hidden)
    found = hidden.new_zeros(hidden.shape[0], dtype=dtype)
    step = block_positions(1, head.size, dtype.itemsize, device=hidden.device.type)
    for start in range(0, hidden.shape[0], step):
        rows = hidden[start : start + step]
        logits = project(rows, head, out=torch.empty((rows.shape[0], head.size), dtype=dtype, device=hidden.device))
        found[start : start + step] = normalise(logits).gather(1, ids[start : start + step, None])[:, 0]
    return found
