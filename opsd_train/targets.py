"""Targets: how the frozen distributions combine into what the student is pulled towards.

``TARGETS[name].combine({role: logp (T, V)}, TargetParams(clip_c=10., beta=1.)) -> target_logp (T, V)``

Legend: T positions, V *real* vocabulary (padded rows of the output head never enter: slice them off first).
Role tensors are log-softmax over V, float32 (float64 stays float64). A target works row by row, so any chunking
or reordering of positions gives the same rows. The result is a normalised, finite log-probability (−inf becomes
``LOGP_FLOOR``, probability exactly 0), new memory, without gradient; inputs are never written to.
Adding a target: one function with ``Source:`` and one line in ``TARGETS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from opsd_eval.names import lookup

LOGP_FLOOR = -1e30  # stands for log 0: far below any reachable logit, far above −inf, which turns 0·(−inf) into NaN
RATIO_LIMIT = 1e5  # a log-ratio beyond this means that one side is log 0 and the other is not


@dataclass(frozen=True)
class TargetParams:
    """Numbers a target may read: ``clip_c`` (nats, tanh clip of the log-ratio) and ``beta`` (strength 1/β)."""

    clip_c: float = 10.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("clip_c", "beta"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0 (float('inf') is allowed)")


Combine = Callable[[Mapping[str, Tensor], TargetParams], Tensor]


@dataclass(frozen=True)
class Target:
    """A named target: ``combine`` reads exactly the roles in ``needs`` (of teacher, reference, base, student)."""

    name: str
    needs: frozenset[str]
    combine: Combine


def log_ratio(numerator_logp: Tensor, denominator_logp: Tensor) -> Tensor:
    """Δ = log numerator − log denominator, (T, V) nats, new memory.

    −inf − −inf is 0. Where only one side is −inf, Δ is ±``RATIO_LIMIT`` instead of ±inf. NaN stays NaN.
    """
    delta = numerator_logp.clamp(min=LOGP_FLOOR)
    delta -= denominator_logp.clamp(min=LOGP_FLOOR)
    return delta.clamp_(-RATIO_LIMIT, RATIO_LIMIT)


def centre_(delta: Tensor) -> Tensor:
    """Subtract each row's vocabulary mean in place: Δ − mean_v Δ."""
    return delta.sub_(delta.mean(-1, keepdim=True))


def soft_clip_(delta: Tensor, clip_c: float) -> Tensor:
    """c·tanh(Δ/c) in place; c = inf leaves Δ alone."""
    return delta if clip_c == float("inf") else delta.div_(clip_c).tanh_().mul_(clip_c)


def normalise(logits: Tensor) -> Tensor:
    """log_softmax over the vocabulary with −inf replaced by ``LOGP_FLOOR``."""
    return torch.log_softmax(logits, dim=-1).clamp_(min=LOGP_FLOOR)


def tilt(base_logp: Tensor, delta: Tensor, beta: float) -> Tensor:
    """Log of the distribution ∝ P_base · exp(Δ/β); overwrites ``delta``. β = inf gives the base."""
    return normalise(delta.div_(beta).add_(base_logp.clamp(min=LOGP_FLOOR)))


@torch.no_grad()
def standard(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """The privileged teacher itself: P = π_T.

    (T, V) nats. Reads neither ``clip_c`` nor ``beta``.
    Source: arXiv 2601.18734, section 3. Differs: no.
    """
    return normalise(logp["teacher"])


@torch.no_grad()
def purified(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Base tilted by what the question adds to the reference: P ∝ P_0 · exp(c·tanh((Δ_it − mean Δ_it)/c)/β).

    Δ_it = log π_T − log π_ref. (T, V) nats. Teacher = reference gives the base exactly; β → ∞ gives the base;
    c → ∞ gives P_0·(π_T/π_ref)^(1/β), renormalised.
    Source: arXiv 2607.02234, the PMI target with vocabulary centring and tanh clip, c = 10, β = 1.
    Differs: −inf − −inf is 0 and a one-sided −inf is ±``RATIO_LIMIT`` (ours).
    """
    delta = soft_clip_(centre_(log_ratio(logp["teacher"], logp["reference"])), params.clip_c)
    return tilt(logp["base"], delta, params.beta)


@torch.no_grad()
def no_subtraction(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Ablation: anchor and clip kept, no reference-only teacher: P ∝ P_0 · exp(clip(centre(log π_T − log P_0))/β).

    As c → ∞ this is P_0^(1−1/β)·π_T^(1/β): the teacher itself at β = 1, so compare at β = 2 and 4.
    Source: ablation of arXiv 2607.02234. Differs: log P_0 stands where log π_ref was.
    """
    delta = soft_clip_(centre_(log_ratio(logp["teacher"], logp["base"])), params.clip_c)
    return tilt(logp["base"], delta, params.beta)


@torch.no_grad()
def no_anchor(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Ablation: the tilt alone, without a base: P = softmax(clip(centre(Δ_it))/β).

    Source: ablation of arXiv 2607.02234. Differs: P_0 is replaced by the uniform distribution.
    """
    delta = soft_clip_(centre_(log_ratio(logp["teacher"], logp["reference"])), params.clip_c)
    return normalise(delta.div_(params.beta))


@torch.no_grad()
def no_centring(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Ablation: purified without subtracting the vocabulary mean before the tanh.

    As c → ∞ it equals purified (softmax ignores a shift); it differs only through the tanh.
    Source: ablation of arXiv 2607.02234. Differs: no centring.
    """
    delta = soft_clip_(log_ratio(logp["teacher"], logp["reference"]), params.clip_c)
    return tilt(logp["base"], delta, params.beta)


@torch.no_grad()
def no_clip(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Ablation: purified without the tanh: P ∝ P_0 · (π_T/π_ref)^(1/β).

    Source: ablation of arXiv 2607.02234. Differs: c = ∞, except that |Δ| stops at ``RATIO_LIMIT``.
    """
    return tilt(logp["base"], centre_(log_ratio(logp["teacher"], logp["reference"])), params.beta)


_ALL = frozenset({"teacher", "reference", "base"})

TARGETS: dict[str, Target] = {
    "standard": Target("standard", frozenset({"teacher"}), standard),
    "purified": Target("purified", _ALL, purified),
    "no_subtraction": Target("no_subtraction", frozenset({"teacher", "base"}), no_subtraction),
    "no_anchor": Target("no_anchor", frozenset({"teacher", "reference"}), no_anchor),
    "no_centring": Target("no_centring", _ALL, no_centring),
    "no_clip": Target("no_clip", _ALL, no_clip),
}


def get_target(name: str) -> Target:
    """The registered target; an unknown name raises ``ValueError`` with the closest ones."""
    return lookup("target", name, TARGETS)
