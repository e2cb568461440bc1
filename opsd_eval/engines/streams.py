"""Random numbers that belong to a row, and the choice of the next token from them.

Token t of a row uses the t-th number of the row's own stream, so what a row samples does not depend on which other
rows are computed with it, nor on where an interrupted run was taken up again (up to floating-point noise in logits,
which depends on the batch's shape and moves a choice only when the number falls within that noise of a boundary).

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opsd_eval.engines.base import Sampling

if TYPE_CHECKING:
    import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
    """Numbers ``first .. first + count - 1`` of each row's stream: (B, count) float64, strictly between 0 and 1.

    ``u_t = splitmix64(seed + (t + 1) * golden)`` with 52 of its bits, a counter-based generator without state.

    Source: Steele, Lea, Flood (2014), "Fast splittable pseudorandom number generators". Differs: no.
    """
    counters = first.astype(np.uint64)[:, None] + np.arange(1, count + 1, dtype=np.uint64)[None]
    z = seeds.astype(np.uint64)[:, None] + counters * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def pick_tokens(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next tokens (B,) from logits (B, V) by inverting the cumulative distribution at ``uniform`` (B, 1) float64.

    Temperature first, then top-k, then top-p, then renormalise; tokens stay in vocabulary order, so noise in the
    logits cannot reorder them. Temperature 0 takes the argmax and uses no random number.
    """
    import torch

    if sampling.temperature == 0:
        return logits.argmax(-1)
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    prob = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1.0:
        prob = _nucleus(prob, sampling.top_p)
    cumulative = torch.cumsum(prob, dim=-1, dtype=torch.float64)
    chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return chosen.squeeze(-1).clamp_(max=logits.shape[-1] - 1)


def _nucleus(prob: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the fewest most likely tokens whose mass reaches ``top_p``; the others get 0."""
    ordered, order = prob.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    return ordered.new_zeros(prob.shape).scatter_(-1, order, ordered)


def token_logp(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability (B,) of the chosen tokens under the raw distribution: temperature 1, nothing cut."""
    chosen_logits = logits.gather(-1, tokens[:, None]).squeeze(-1)
    return chosen_logits - logits.logsumexp(-1)
