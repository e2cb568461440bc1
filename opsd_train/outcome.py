"""How a completion ended, read off the teacher: the only number here that looks beyond one position.

``verdicts(ratio (N,), lengths, finished) -> (B,)`` in [0, 1] · ``advantages(verdicts, lengths) -> (N,)``

Legend: B completions, N their tokens, packed one completion after the other. ``ratio`` is π_T(a)/π_θ(a) of each sampled
token a. A target that needs ``outcome`` gets a (T, V) tensor with the advantage at the sampled token and 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VERDICT_TOKENS = 8  # how many last tokens of a completion its verdict reads, at most a third of them and one


def verdicts(ratio: Tensor, lengths: Sequence[int], finished: Sequence[bool]) -> Tensor:
    """Whether the teacher, who has read the reference, would have ended each completion like this: (B,) in [0, 1].

    The smallest π_T(a)/π_θ(a), at most 1, over the last min(8, ⌊T/3⌋ + 1) tokens, where the answer stands. 0 for a
    completion that is empty or did not end by itself.
    Source: ours. Differs: from a grader, which compares answers; this one never reads text.
    """
    found = ratio.new_zeros(len(lengths))
    for row, part in enumerate(ratio.split(list(lengths))):
        if finished[row] and len(part):
            found[row] = part[-min(VERDICT_TOKENS, len(part) // 3 + 1) :].min().clamp(max=1.0)
    return found


def advantages(verdict: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each token's completion against the mean of the pass's other completions: R_i − mean_{j≠i} R_j, (N,) in [−1, 1].

    A pass of one completion has no other to compare with: 0. Source: the leave-one-out baseline, textbook. Differs: no.
    """
    others = (verdict.sum() - verdict) / max(len(lengths) - 1, 1)
    own = verdict - others if len(lengths) > 1 else torch.zeros_like(verdict)
    return own.repeat_interleave(torch.tensor(list(lengths), device=verdict.device))
