"""Weightings: how much each completion token counts in the loss, decided before any chunking.

``WEIGHTINGS[name](TokenStats(position, length, student_entropy)) -> (N,) weights``
``token_stats(lengths, student_entropy=lambda: ...)`` makes the stats of packed completions.

Legend: N valid completion tokens of all rollouts, packed one rollout after the other. A weighting averages 1 over
each rollout's tokens, so it moves the loss between tokens but does not change its scale.
Adding a weighting: one function with ``Source:`` and one line in ``WEIGHTINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenStats:
    """What a weighting may read, (N,) each: position in its completion from 0, its length, student entropy (nats).

    ``student_entropy`` is a function, called only by weightings that use it: it costs a pass over the student's
    output head (``loss.student_entropy``).
    """

    position: Tensor
    length: Tensor
    student_entropy: Callable[[], Tensor] | None = None


Weighting = Callable[[TokenStats], Tensor]


def token_stats(
    lengths: Sequence[int],
    *,
    student_entropy: Callable[[], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> TokenStats:
    """Positions and lengths of packed completions of the given lengths; empty completions add nothing."""
    sizes = torch.tensor(list(lengths), dtype=torch.long, device=device)
    length = sizes.repeat_interleave(sizes)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return TokenStats(torch.arange(len(length), device=device) - starts, length, student_entropy)


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
    if stats.student_entropy is None:
        raise ValueError(
            "weighting 'entropy_top20' needs student_entropy, a function that returns (N,) nats; pass it in TokenStats"
        )
    entropy = stats.student_entropy()
    weights = torch.zeros_like(entropy, dtype=torch.float32)
    for start in torch.nonzero(stats.position == 0).flatten().tolist():
        length = int(stats.length[start])
        kept = -(-length // 5)
        order = torch.argsort(entropy[start : start + length], descending=True, stable=True)
        weights[start + order[:kept]] = length / kept
    return weights


WEIGHTINGS: dict[str, Weighting] = {
    "uniform": uniform,
    "position_linear": position_linear,
    "entropy_top20": entropy_top20,
}
