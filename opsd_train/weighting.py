"""Weightings: how much each completion token counts in the loss, decided before any chunking.

``WEIGHTINGS[name](TokenStats(position, length, ...)) -> (N,) weights``
``token_stats(lengths, student_entropy=lambda: ...)`` makes the stats of packed completions.

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
    for rows in _rollout_slices(stats):
        order = torch.argsort(entropy[rows], descending=True, stable=True)
        chosen[rows.start + order[: -(-len(order) // 5)]] = True
    return chosen


def _rollout_slices(stats: TokenStats) -> list[slice]:
    """Where each completion that is not empty lies among the packed tokens."""
    starts = torch.nonzero(stats.position == 0).flatten().tolist()
    return [slice(start, start + int(stats.length[start])) for start in starts]


WEIGHTINGS: dict[str, Weighting] = {
    "uniform": uniform,
    "position_linear": position_linear,
    "entropy_top20": entropy_top20,
    "entropy_push": entropy_push,
}
STEERING = frozenset({"entropy_push"})
