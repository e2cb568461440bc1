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
OUTCOME = "outcome"  # not a role: how completions ended, see opsd_train/outcome.py
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
    """A named target: ``combine`` reads exactly what is in ``needs``: roles, and ``outcome``."""

    name: str
    needs: frozenset[str]
    combine: Combine

    @property
    def roles(self) -> frozenset[str]:
        """The roles that must be scored: ``needs``, and the teacher where outcomes are read off it."""
        return (self.needs - {OUTCOME}) | ({"teacher"} if OUTCOME in self.needs else set())


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
    """log_softmax over the vocabulary with −inf replaced by ``LOGP_FLOOR``.

    torch adds a long row up in sequence: in float32 its normaliser is off by 1e-5 at V = 150,000. One more sum, taken
    pairwise, puts that right.
    """
    logp = torch.log_softmax(logits, dim=-1)
    return logp.sub_(logp.exp().sum(-1, keepdim=True).log_()).clamp_(min=LOGP_FLOOR)


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


@torch.no_grad()
def geometric(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Between base and teacher, logits interpolated: P ∝ P_0^(1−1/β) · π_T^(1/β).

    (T, V) nats. β = 1 is the teacher, β → ∞ the base; equals ``no_subtraction`` as its clip goes to infinity.
    Source: the interpolation of arXiv 2607.28582 and 2608.09745 (β-OPSD, SR-OPSD). Differs: known to us from a
    summary; one constant weight 1/β for all tokens and steps is ours.
    """
    return tilt(logp["base"], log_ratio(logp["teacher"], logp["base"]), params.beta)


ENTROPY_GATE = 0.67  # nats; a fixed stand-in for "the 20 % highest-entropy positions", which no single row can know


@torch.no_grad()
def ad_opsd(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """The teacher; where the student's entropy exceeds .67 nats, mixed with the base: P = (1−u)·π_T + u·P_0.

    u = total variation between π_T and P_0, in [0, 1]: the further the teacher is from the base, the less it is
    believed. (T, V) nats; teacher = base gives the base. Reads neither ``clip_c`` nor ``beta``.
    Source: arXiv 2607.10805 (AD-OPSD). Differs: known to us from a summary; the gate there is the 20 % of a
    completion's positions with the highest entropy, here a threshold, and the unreliability weight u is ours.
    """
    student, teacher, base = (logp[role].clamp(min=LOGP_FLOOR) for role in ("student", "teacher", "base"))
    entropy = -torch.linalg.vecdot(student.exp(), student)[..., None]
    unreliable = 0.5 * (teacher.exp() - base.exp()).abs().sum(-1, keepdim=True)
    share = torch.where(entropy > ENTROPY_GATE, unreliable, 0.0 * entropy).clamp(0.0, 1.0)  # NaN stays NaN
    mixed = torch.logaddexp(teacher + torch.log1p(-share), base + share.log())
    return normalise(mixed.clamp_(min=LOGP_FLOOR))


@torch.no_grad()
def rlcsd(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Base tilted by right hint against wrong hint: P ∝ P_0 · exp(clip(centre(log π_T − log π_wrong))/β).

    π_wrong reads the question and another problem's reference. (T, V) nats; right hint = wrong hint gives the base.
    Source: the contrast of arXiv 2606.11709 (RLCSD). Differs: known to us from a summary; used as a target with the
    centring and clip of ``purified``, not as a reward.
    """
    delta = soft_clip_(centre_(log_ratio(logp["teacher"], logp["wrong_hint"])), params.clip_c)
    return tilt(logp["base"], delta, params.beta)


SMOOTHING = 0.05  # probability added to both sides of the smoothed ratio
DIFFERENCE_GAIN = 3.0  # nats for a whole unit of probability moved, at β = 1


@torch.no_grad()
def smoothed_ratio(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Purified without its tails: P ∝ P_0 · ((π_T + .05)/(π_ref + .05))^(1/β).

    A token that neither teacher expects keeps its share, whatever the ratio of two tiny numbers. (T, V) nats.
    Source: ours, an intervention on arXiv 2607.02234. Differs: .05 is added to both probabilities; no centring.
    """
    ratio = (logp["teacher"].exp() + SMOOTHING).log_() - (logp["reference"].exp() + SMOOTHING).log_()
    return tilt(logp["base"], ratio, params.beta)


@torch.no_grad()
def difference(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Base tilted by a difference of probabilities, not of logarithms: P ∝ P_0 · exp(3·(π_T − π_ref)/β).

    The tilt lies within ±3/β nats, so no tail can explode. (T, V) nats; teacher = reference gives the base.
    Source: ours, after arXiv 2607.02234. Differs: π_T − π_ref stands where log π_T − log π_ref was; no clip.
    """
    delta = (logp["teacher"].exp() - logp["reference"].exp()).mul_(DIFFERENCE_GAIN)
    return tilt(logp["base"], delta, params.beta)


@torch.no_grad()
def agreement(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """The teacher where its likeliest token is also the base's, the base elsewhere.

    Sharpens what the base already prefers and changes no preference. (T, V) nats. Reads no parameter.
    Source: ours. Differs: from arXiv 2601.18734 by the rule.
    """
    agree = logp["teacher"].argmax(-1, keepdim=True) == logp["base"].argmax(-1, keepdim=True)
    chosen = torch.where(agree, logp["teacher"], logp["base"])
    undefined = logp["teacher"].isnan().any(-1, keepdim=True) | logp["base"].isnan().any(-1, keepdim=True)
    return normalise(chosen.masked_fill(undefined, torch.nan))


SUPPORT = 0.02  # base probability from which a token counts as something that the student might say by itself
RATIO_CAP = 4.0  # of P'/π_θ − 1: a token that the student hardly ever says must not decide alone
CREDIT_GAIN = 10.0  # steps of size 1 towards the teacher for a whole unit of expected verdict, at β = 1


@torch.no_grad()
def credited(logp: Mapping[str, Tensor], params: TargetParams) -> Tensor:
    """Base moved towards the teacher where the student's rollouts say this pays, away from it where it costs.

    P = P_0 + c·(P' − P_0), c = clip(10/β · Σ_v outcome(v)·min(P'(v)/π_θ(v) − 1, 4), ±1), entries below 0 set to 0.
    P' = π_T on tokens that the base says with probability ≥ .02, and P_0 for the rest of its mass: only what the
    student might say by itself can be learnt. ``outcome``: the advantage at the sampled token, 0 elsewhere (T, V).
    On the path (1−λ)·π_θ + λ·P' the expected verdict rises by E_{a~π_θ}[(P'(a)/π_θ(a) − 1)·Q(a)], Q the student's own
    expected verdict after a, which the sum estimates from one sample. No advantage, or β → ∞, gives the base exactly.
    Source: ours; policy gradient along one direction. Differs: from arXiv 2601.18734, which moves there always.
    """
    student, teacher, base = (logp[role].clamp(min=LOGP_FLOOR) for role in ("student", "teacher", "base"))
    base_prob, teacher_prob = base.exp(), teacher.exp()
    there = torch.where(base_prob < SUPPORT, 0.0 * teacher_prob, teacher_prob)  # NaN stays NaN
    goal = there + (1.0 - there.sum(-1, keepdim=True)).clamp_(min=0.0) * base_prob
    gain = (goal.clamp(min=1e-30).log() - student).clamp_(max=RATIO_CAP).exp_().sub_(1.0).clamp_(max=RATIO_CAP)
    step = (gain * logp[OUTCOME]).sum(-1, keepdim=True).mul_(CREDIT_GAIN / params.beta).clamp_(-1.0, 1.0)
    moved = (base_prob + step * (goal - base_prob)).clamp_(min=0.0)
    return normalise(moved.log_().clamp_(min=LOGP_FLOOR))

_ALL = frozenset({"teacher", "reference", "base"})

TARGETS: dict[str, Target] = {
    "standard": Target("standard", frozenset({"teacher"}), standard),
    "purified": Target("purified", _ALL, purified),
    "no_subtraction": Target("no_subtraction", frozenset({"teacher", "base"}), no_subtraction),
    "no_anchor": Target("no_anchor", frozenset({"teacher", "reference"}), no_anchor),
    "no_centring": Target("no_centring", _ALL, no_centring),
    "no_clip": Target("no_clip", _ALL, no_clip),
    "geometric": Target("geometric", frozenset({"teacher", "base"}), geometric),
    "ad_opsd": Target("ad_opsd", frozenset({"teacher", "base", "student"}), ad_opsd),
    "rlcsd": Target("rlcsd", frozenset({"teacher", "wrong_hint", "base"}), rlcsd),
    "smoothed_ratio": Target("smoothed_ratio", _ALL, smoothed_ratio),
    "difference": Target("difference", _ALL, difference),
    "agreement": Target("agreement", frozenset({"teacher", "base"}), agreement),
    "credited": Target("credited", frozenset({"teacher", "base", "student", OUTCOME}), credited),
}


def get_target(name: str) -> Target:
    """The registered target; an unknown name raises ``ValueError`` with the closest ones."""
    return lookup("target", name, TARGETS)
