"""Scoring: hidden states at exactly the positions that predict completion tokens, and nowhere else.

``completion_hidden(model, prompts, completions, *, max_tokens=..., ) -> (N, D)`` packed, in the order given
``frozen_hidden(model, prompts_by_role, completions, ...) -> {role: (N, D)}`` without gradient, adapter off
``verify_model(model)``: the head applied to these states equals the model's own logits

Legend: B rollouts, N = Σ completion lengths, D hidden. Row b is prompt_b + completion_b without its last token
(nothing needs what that token predicts); states at positions len(prompt)−1 … len(row)−1 predict the completion.
Rows are padded on the right: with causal attention nothing real looks at padding, so no attention mask and no
position ids are needed, and the result equals scoring each row alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from opsd_train.head import compute_dtype, head_of, project

if TYPE_CHECKING:
    from peft import PeftModel

Ids = Sequence[int]
_MAX_TOKENS = 16_384  # padded tokens in one forward pass
UNLIMITED = 1 << 40  # as ``max_tokens``: everything in one pass
_SHORTER, _ENOUGH = 0.8, 512  # a row this much shorter starts a new pass, if the pass has this many tokens already


def _has_adapter(model: nn.Module) -> TypeGuard[PeftModel]:
    """Whether peft wraps the model; who never imported peft has none of its models (its import takes a second)."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def backbone_of(model: nn.Module) -> nn.Module:
    """The decoder below the output head of a Hugging Face causal LM, with its LoRA layers if peft-wrapped."""
    inner: Any = model.get_base_model() if _has_adapter(model) else model
    decoder = inner.get_decoder() if isinstance(inner, PreTrainedModel) else None
    if decoder is None or decoder is inner:
        raise ValueError(f"{type(model).__name__} does not name its decoder; pass a Hugging Face causal language model")
    return decoder


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """The frozen initial weights of a LoRA model: the same weights with the adapter off. A no-op without peft."""
    if _has_adapter(model):
        with model.disable_adapter():
            yield
    else:
        yield


def completion_hidden(
    model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Ids], *, max_tokens: int = _MAX_TOKENS
) -> Tensor:
    """Last hidden states (N, D) that predict the completion tokens, packed rollout by rollout in the given order.

    Gradient flows as the caller's mode says. ``max_tokens``: padded tokens per forward pass; rows are grouped by
    length so that little is padding. An empty completion adds nothing; an empty prompt is an error.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions; give one prompt a completion")
    if empty := [i for i, prompt in enumerate(prompts) if len(prompt) == 0]:
        raise ValueError(f"rows {empty[:5]} have an empty prompt; the first completion token needs a token before it")
    decoder = backbone_of(model)
    device = next(decoder.parameters()).device
    parts: list[Tensor | None] = [None] * len(prompts)
    for group in _groups([len(p) + len(c) - 1 for p, c in zip(prompts, completions, strict=True)], max_tokens):
        wanted = [i for i in group if len(completions[i])]
        if not wanted:
            continue
        rows = [[*prompts[i], *completions[i][:-1]] for i in wanted]
        states = decoder(input_ids=_right_padded(rows, device), use_cache=False).last_hidden_state
        for b, i in enumerate(wanted):
            parts[i] = states[b, len(prompts[i]) - 1 : len(rows[b])]
    found = [part for part in parts if part is not None]
    if found:
        return torch.cat(found)
    weight = head_of(model).weight
    return weight.new_zeros((0, weight.shape[1]))


def _groups(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Row numbers in groups of similar length whose padded size stays within ``max_tokens`` (one row always fits).

    A base's prompt is often half as long as a teacher's: rows below 0.8 of a group's longest go into another one,
    unless the group is too small for its products to be efficient.
    """
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[group[0]] if group else 0
        shorter = lengths[i] < _SHORTER * longest and len(group) * longest >= _ENOUGH and max_tokens < UNLIMITED
        if group and (shorter or (len(group) + 1) * longest > max_tokens):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _right_padded(rows: Sequence[Ids], device: torch.device) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long, device=device)


@torch.no_grad()
def frozen_hidden(
    model: nn.Module,
    prompts: Mapping[str, Sequence[Ids]],
    completions: Sequence[Ids],
    *,
    max_tokens: int = _MAX_TOKENS,
) -> dict[str, Tensor]:
    """Every role's hidden states under one set of frozen weights, in joint batches: {role: (N, D)}.

    ``prompts``: {role: one prompt per completion}. LoRA: pass the student's model, its adapter is turned off.
    Full fine-tuning: pass the frozen copy. Roles with other weights (an EMA teacher) take a call of their own.
    """
    roles = list(prompts)
    if not roles:
        return {}
    rows = [prompt for role in roles for prompt in prompts[role]]
    was_training = model.training
    model.eval()
    try:
        with adapter_disabled(model):
            states = completion_hidden(model, rows, list(completions) * len(roles), max_tokens=max_tokens)
    finally:
        model.train(was_training)
    return dict(zip(roles, states.chunk(len(roles)) if len(states) else [states] * len(roles), strict=True))


@torch.no_grad()
def verify_model(model: nn.Module, *, tolerance: float = 1e-3) -> None:
    """Raise ``ValueError`` unless hidden states times the output head give the model's own logits.

    One forward pass of four tokens at the start of a run: catches any model family that rescales, caps or
    otherwise changes its logits after the head. ``tolerance`` is relative to the largest logit.
    """
    head = head_of(model)
    ids = torch.arange(4, device=head.weight.device)[None] % head.size
    expected = model(input_ids=ids, use_cache=False).logits[0]
    hidden = backbone_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    dtype = compute_dtype(hidden)
    found = project(hidden, head, out=torch.empty((4, head.size), dtype=dtype, device=hidden.device))
    allowed = max(tolerance, 4 * torch.finfo(expected.dtype).eps) * float(expected.abs().max())
    gap = float((expected.to(dtype) - found).abs().max())
    if not gap <= allowed:
        raise ValueError(
            f"{type(model).__name__}: its logits differ from hidden states @ output head by up to {gap:.3g}; the model "
            "changes its logits after the head, which the chunked loss does not compute"
        )
