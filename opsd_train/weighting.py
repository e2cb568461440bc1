"""Weightings: how much each completion token counts in the loss, decided before any chunking.

``WEIGHTINGS[name](TokenStats(position, length, ...)) -> (N,) weights``
``token_stats(lengths, student_entropy=lambda: ..., sampled_logp=lambda role: ...)``: stats of packed completions

Legend: N valid completion tokens of all rollouts, packed one rollout after the other. A weighting is ≥ 0 and
averages 1 over each rollout's tokens, so it moves the loss between tokens but does not change its scale. Those in
``STEERING`` are signed instead: the student is pulled towards the target where the weight is positive, pushed away
from it where it is negative (the JSD is bounded, so a push fades out), and left alone where it is 0.
Adding a weighting: one function with ``Source:`` and one line in ``WEIGHTINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenStats:
    """What a weighting may read, (N,) each: position in its completion from 0, its length, and on request more.

    ``student_entropy()`` in nats and ``sampled_logp(role)``, the log-probability of each sampled token under a role
    (teacher or student), are functions, called only by weightings that use them: they cost a pass over an output
    head (``loss.student_entropy``, ``loss.sampled_logp``). ``finished``: whether the token's completion ended by
    itself; None counts all as finished.
    """

    position: Tensor
    length: Tensor
    student_entropy: Callable[[], Tensor] | None = None
    sampled_logp: Callable[[str], Tensor] | None = None
    finished: Tensor | None = None


Weighting = Callable[[TokenStats], Tensor]


def token_stats(
    lengths: Sequence[int],
    *,
    student_entropy: Callable[[], Tensor] | None = None,
    sampled_logp: Callable[[str], Tensor] | None = None,
    finished: Sequence[bool] | None = None,
    device: torch.device | str = "cpu",
) -> TokenStats:
    """Positions and lengths of packed completions of the given lengths; empty completions add nothing."""
    sizes = torch.tensor(list(lengths), dtype=torch.long, device=device)
    length = sizes.repeat_interleave(sizes)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ended = None if finished is None else torch.tensor(list(finished), device=device).repeat_interleave(sizes)
    return TokenStats(torch.arange(len(length), device=device) - starts, length, student_entropy, sampled_logp, ended)


def uniform(stats: TokenStats) -> Tensor:
    """Every token counts 1. Source: arXiv 2601.18734. Differs: no."""
    return torch.ones(stats.position.shape, dtype=torch.float32, device=stats.position.device)


def position_linear(stats: TokenStats) -> Tensor:
    """Weight rising linearly with position t = 0 … T−1: 2(t+1)/(T+1), mean 1 over the completion.

    Source: the idea of arXiv 2605.21606 (PW-OPSD, weight rising with position). Differs: the ramp is ours.
    """
    return 2.0 * (stats.position + 1).float() / (stats.length + 1).float()


def entropy_top20(stats: TokenStats) -> Tensor:
    """Only the fifth of each completion with the highest student entropy counts: T/k there, 0 elsewhere.

    k = ⌈T/5⌉ tokens of a completion of T; earlier positions win ties; mean 1 over the completion.
    Source: the gate of arXiv 2607.10805 (AD-OPSD, 20 % highest-entropy positions). Differs: a gate on the loss
    only; its mixing of teacher and base is a target.
    """
    top = _top_entropy(stats, "entropy_top20")
    kept = -(-stats.length // 5)
    return torch.where(top, stats.length / kept, 0.0).float()


def entropy_push(stats: TokenStats) -> Tensor:
    """Pull at low student entropy, push away at high: −1 at the fifth with the highest entropy, +1 elsewhere.

    The fifth is that of ``entropy_top20``. Signed, see ``STEERING``.
    Source: arXiv 2605.22263 (DASD). Differs: known to us from a summary; the cut at a fifth and equal strengths of
    pull and push are ours, and the push is the same divergence with a minus sign.
    """
    return torch.where(_top_entropy(stats, "entropy_push"), -1.0, 1.0)


def _top_entropy(stats: TokenStats, name: str) -> Tensor:
    """Mask of the ⌈T/5⌉ positions of each completion with the highest student entropy; earlier ones win ties."""
    if stats.student_entropy is None:
        raise ValueError(
            f"weighting {name!r} needs student_entropy, a function that returns (N,) nats; pass it in TokenStats"
        )
    entropy = stats.student_entropy()
    chosen = torch.zeros(entropy.shape, dtype=torch.bool, device=entropy.device)
    for rows in rollout_slices(stats):
        order = torch.argsort(entropy[rows], descending=True, stable=True)
        chosen[rows.start + order[: -(-len(order) // 5)]] = True
    return chosen


def rollout_slices(stats: TokenStats) -> list[slice]:
    """Where each completion that is not empty lies among the packed tokens."""
    starts = torch.nonzero(stats.position == 0).flatten().tolist()
    return [slice(start, start + int(stats.length[start])) for start in starts]


RATIO_CAP = 4.0  # of π_T/π_θ − 1: one token that the student hardly ever says must not outweigh a whole step
VERDICT_TOKENS = 8  # how many last tokens of a completion its verdict reads, at most a third of them


def credit(stats: TokenStats) -> Tensor:
    """Pull towards the teacher where the student's own rollouts show that this pays, push away where it costs.

    w_t = min(π_T(a_t)/π_θ(a_t) − 1, 4) · (R_i − mean of R over the pass's other completions): a_t the sampled token,
    R_i the teacher's :func:`verdict` on how the completion ended. Signed, see ``STEERING``. Along the path
    (1−λ)·π_θ + λ·π_T at one position, the expected verdict rises by E_{a~π_θ}[(π_T(a)/π_θ(a) − 1)·Q(a)], Q the
    student's own expected verdict after a; w_t estimates that number without bias but for the cap. A position at
    which both agree has weight 0; a pass of one completion has no other to compare with and weighs 0.
    Source: ours (policy gradient, projected on the teacher's direction). Differs: from arXiv 2601.18734, which
    pulls everywhere.
    """
    if stats.sampled_logp is None:
        raise ValueError("weighting 'credit' needs sampled_logp, a function of a role; pass it in TokenStats")
    ratio = (stats.sampled_logp("teacher") - stats.sampled_logp("student")).exp()
    outcome = verdict(stats, ratio)
    weights = torch.zeros_like(ratio, dtype=torch.float32)
    slices = rollout_slices(stats)
    for rows, mine in zip(slices, outcome.tolist(), strict=True):
        others = (float(outcome.sum()) - mine) / max(len(slices) - 1, 1)
        advantage = mine - others if len(slices) > 1 else 0.0
        weights[rows] = (ratio[rows] - 1.0).clamp(max=RATIO_CAP).float() * advantage
    return weights


def verdict(stats: TokenStats, ratio: Tensor) -> Tensor:
    """Whether the teacher, who has read the reference, would have ended each completion like this: in [0, 1].

    The smallest π_T(a)/π_θ(a), at most 1, over the last min(8, ⌊T/3⌋ + 1) tokens, where the answer stands; 0 for a
    completion that did not end by itself. ``ratio``: (N,). One number a completion that is not empty.
    """
    found = []
    for rows in rollout_slices(stats):
        last = ratio[rows][-min(VERDICT_TOKENS, (rows.stop - rows.start) // 3 + 1) :]
        ended = stats.finished is None or bool(stats.finished[rows.start])
        found.append(last.min().clamp(max=1.0) if ended else last.new_zeros(()))
    return torch.stack(found) if found else ratio.new_zeros(0)


WEIGHTINGS: dict[str, Weighting] = {
    "uniform": uniform,
    "position_linear": position_linear,
    "entropy_top20": entropy_top20,
    "entropy_push": entropy_push,
    "credit": credit,
}
STEERING = frozenset({"entropy_push", "credit"})
NEEDS = {"credit": frozenset({"teacher"})}  # roles that a weighting reads besides the student
