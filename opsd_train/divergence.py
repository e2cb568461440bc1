"""Divergences between target and student, entry by entry over the vocabulary, with their slopes.

``DIVERGENCES[name](target_logp, student_logp, *, weight_on_target=.5) -> Entries(value, slope)``, both (T, V)
``token_divergence(target_logp, student_logp, divergence) -> TokenDivergence(value (T,), grad_logits (T, V), ...)``

Legend: T positions, V real vocabulary. ``value`` sums over V to the divergence in nats. ``slope`` is the
derivative of an entry's value by that entry's *student log-probability*; with q = softmax(z) the gradient by the
student's logits is then slope − q·Σ slope, with no second pass through autograd.
KL in a name means ≥ 0, and 0 only where both distributions are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from opsd_eval.names import lookup
from opsd_train.targets import LOGP_FLOOR

CLIPS = ("none", "per_entry", "per_token")
_MAX_LOG_RATIO = 80.0  # e^80 still fits float32; beyond it the student's probability is 0 to every digit


class Entries(NamedTuple):
    """Per-entry contributions (T, V) in nats, and their derivative by the same entry's student_logp."""

    value: Tensor
    slope: Tensor


DivergenceFn = Callable[..., Entries]  # student_prob = student_logp.exp() may be given to save computing it again


def _log_ratio(target_logp: Tensor, student_logp: Tensor) -> Tensor:
    return target_logp.clamp(min=LOGP_FLOOR).sub_(student_logp.clamp(min=LOGP_FLOOR))


def forward_kl(
    target_logp: Tensor, student_logp: Tensor, *, weight_on_target: float = 0.5, student_prob: Tensor | None = None
) -> Entries:
    """KL(target ‖ student) = Σ_v P(v)·(log P(v) − log Q(v)); ignores ``weight_on_target``.

    (T, V) in, nats. An entry may be negative, the row sum is not. Target probability 0 contributes 0.
    Source: arXiv 2601.18734 (the forward limit of its generalized JSD, JSD_λ/λ at λ → 0). Differs: no.
    """
    target_prob = target_logp.exp()
    value = _log_ratio(target_logp, student_logp).mul_(target_prob)
    return Entries(value, target_prob.neg_())


def reverse_kl(
    target_logp: Tensor, student_logp: Tensor, *, weight_on_target: float = 0.5, student_prob: Tensor | None = None
) -> Entries:
    """KL(student ‖ target) = Σ_v Q(v)·(log Q(v) − log P(v)); ignores ``weight_on_target``.

    (T, V) in, nats. Student probability 0 contributes 0.
    Source: arXiv 2601.18734 (the reverse limit of its generalized JSD, JSD_λ/(1−λ) at λ → 1). Differs: no.
    """
    student_prob = student_logp.exp() if student_prob is None else student_prob
    value = _log_ratio(target_logp, student_logp).neg_().mul_(student_prob)
    return Entries(value, student_prob + value)


def jsd(
    target_logp: Tensor, student_logp: Tensor, *, weight_on_target: float = 0.5, student_prob: Tensor | None = None
) -> Entries:
    """Generalized Jensen-Shannon divergence λ·KL(P ‖ M) + (1−λ)·KL(Q ‖ M), M = λP + (1−λ)Q, λ = weight_on_target.

    (T, V) in, nats; at λ = .5 symmetric and at most ln 2. Written with d = log P − log Q and
    L = log M − log Q = log1p(λ·expm1(d)), so equal distributions give exactly 0 in any precision:
    value = λP(d − L) − (1−λ)QL, slope = −(1−λ)QL.
    Source: arXiv 2601.18734 (λ is called beta there and in TRL, with the target's weight 1−β in some versions).
    Differs: 0 < λ < 1 only; the limits are the two named KLs.
    """
    if not 0.0 < weight_on_target < 1.0:
        raise ValueError(
            f"weight_on_target is {weight_on_target}; a JSD needs it strictly between 0 and 1. "
            "Use divergence 'forward_kl' or 'reverse_kl' for the ends."
        )
    ratio = _log_ratio(target_logp, student_logp).clamp_(max=_MAX_LOG_RATIO)
    mixture = torch.expm1(ratio).mul_(weight_on_target).log1p_()
    value = ratio.sub_(mixture).mul_(target_logp.exp()).mul_(weight_on_target)
    slope = mixture.mul_(student_logp.exp() if student_prob is None else student_prob).mul_(weight_on_target - 1.0)
    return Entries(value.add_(slope), slope)


DIVERGENCES: dict[str, DivergenceFn] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}


@dataclass(frozen=True)
class Divergence:
    """A chosen divergence and what is clipped from above.

    ``clip``: ``none``; ``per_entry`` caps each vocabulary entry's contribution at ``clip_at`` before the sum, as
    the official standard code does (the loss may go negative: a capped positive entry no longer outweighs the
    negative ones); ``per_token`` caps the summed divergence of a position. Where capped, the slope is 0.
    """

    name: str = "jsd"
    weight_on_target: float = 0.5
    clip: str = "none"
    clip_at: float | None = None

    def __post_init__(self) -> None:
        lookup("divergence", self.name, DIVERGENCES)
        lookup("clip", self.clip, dict.fromkeys(CLIPS))
        if self.name == "jsd" and not 0.0 < self.weight_on_target < 1.0:
            raise ValueError(
                f"weight_on_target is {self.weight_on_target}; a JSD needs it strictly between 0 and 1. "
                "Use divergence 'forward_kl' or 'reverse_kl' for the ends."
            )
        if (self.clip == "none") != (self.clip_at is None) or not (self.clip_at is None or self.clip_at > 0):
            raise ValueError(
                f"clip is {self.clip!r} and clip_at is {self.clip_at}; clip 'none' takes clip_at None, "
                "'per_entry' and 'per_token' take a clip_at above 0 (nats)"
            )


class TokenDivergence(NamedTuple):
    """Per position: ``value`` (T,) nats, ``grad_logits`` (T, V) or None, ``clipped`` (T,) share of capped entries."""

    value: Tensor
    grad_logits: Tensor | None
    clipped: Tensor


@torch.no_grad()
def token_divergence(
    target_logp: Tensor,
    student_logp: Tensor,
    divergence: Divergence,
    *,
    student_prob: Tensor | None = None,
    gradient: bool = True,
) -> TokenDivergence:
    """Divergence of each position and its gradient by the student's logits.

    ``grad_logits`` = slope − softmax(z)·Σ_v slope, with slope 0 where capped. ``clipped`` is a fraction of the
    position's V entries under ``per_entry``, 0 or 1 under ``per_token``, 0 under ``none``. ``student_prob``: the
    exponential of ``student_logp`` where the caller has it already.
    """
    student_prob = student_logp.exp() if student_prob is None else student_prob
    value, slope = DIVERGENCES[divergence.name](
        target_logp, student_logp, weight_on_target=divergence.weight_on_target, student_prob=student_prob
    )
    limit = math.inf if divergence.clip_at is None else divergence.clip_at
    clipped = torch.zeros_like(value[:, 0])
    if divergence.clip == "per_entry":
        over = value > limit
        clipped = over.to(value.dtype).mean(-1)
        value, slope = value.clamp_(max=limit), slope.masked_fill_(over, 0.0)
    token_value = value.sum(-1)
    if divergence.clip == "per_token":
        over = token_value > limit
        clipped = over.to(value.dtype)
        token_value, slope = token_value.clamp_(max=limit), slope.masked_fill_(over[:, None], 0.0)
    if not gradient:
        return TokenDivergence(token_value, None, clipped)
    return TokenDivergence(token_value, slope.addcmul_(student_prob, slope.sum(-1, keepdim=True), value=-1.0), clipped)
