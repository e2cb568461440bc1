"""Diagnostics: what the reference alone explains, what the question adds, and how far the student has moved.

``decomposition(logp {student, teacher, reference}) -> {name: (T,)}`` on given log-probabilities
``diagnose(hidden {role: (N, D)}, heads, method=Method(...), top_k=20) -> {name: (N,)}`` in blocks of positions
``summarise(values, classes=, names=) -> {name: mean, name_nan: count, name[class]: mean}``

Legend: T or N positions, V real vocabulary. log π_T − log π_θ = (log π_ref − log π_θ) + (log π_T − log π_ref), that
is Δ_total = Δ_ref + Δ_it. Everything is per position first, then averaged over positions, without gradient. A
position where a norm is 0 has no cosine: NaN, counted, left out of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from opsd_train.head import Head, compute_dtype, keep_freed_memory, project_roles
from opsd_train.loss import Method, block_positions, row_positions
from opsd_train.targets import OUTCOME, get_target, log_ratio, normalise

DECOMPOSITION = ("cos_total_ref", "cos_total_it", "norm_ratio")
VARIANTS = ("plain", "centred", "weighted", "topk")


@torch.no_grad()
def decomposition(logp: Mapping[str, Tensor], *, top_k: int = 20) -> dict[str, Tensor]:
    """cos(Δ_total, Δ_ref), cos(Δ_total, Δ_it) and ‖Δ_ref‖/‖Δ_total‖ at each position, in four geometries.

    In: log-probabilities (T, V) of student, teacher, reference. Out: (T,) each, dimensionless, named
    ``cos_total_ref``, ``cos_total_it``, ``norm_ratio`` with suffix ``_plain`` (all entries alike), ``_centred``
    (vocabulary mean removed), ``_weighted`` (inner product weighted by the student's probability) and ``_topk``
    (union of the top k of student, teacher and reference). A norm of 0 gives NaN.
    With a = cos(Δ_total, Δ_ref), r = norm_ratio: cos(Δ_total, Δ_it) = (1 − r·a)/√(1 + r² − 2·r·a).
    Source: arXiv 2607.02234, decomposition of Δ_total. Differs: plain as published, the other three are added.
    """
    total = log_ratio(logp["teacher"], logp["student"])
    ref = log_ratio(logp["reference"], logp["student"])
    it = log_ratio(logp["teacher"], logp["reference"])
    weight = logp["student"].exp()
    plain = [total, ref, it]
    centred = [delta - delta.mean(-1, keepdim=True) for delta in plain]
    at, once = _top_union(logp, top_k)
    top = [delta.gather(-1, at) for delta in plain]
    geometries = ((plain, None), (centred, None), (plain, weight), (top, once))
    found = {}
    for variant, (deltas, inner) in zip(VARIANTS, geometries, strict=True):
        values = _angles(deltas, inner)
        found |= {f"{name}_{variant}": value for name, value in zip(DECOMPOSITION, values, strict=True)}
    return found


def _angles(deltas: Sequence[Tensor], weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The two cosines and the norm ratio of (Δ_total, Δ_ref, Δ_it) under the inner product Σ_v w(v)·a(v)·b(v)."""
    total, ref, it = deltas

    def inner(one: Tensor, other: Tensor) -> Tensor:
        return torch.linalg.vecdot(one if weight is None else one * weight, other)

    size_total, size_ref, size_it = (inner(delta, delta).sqrt() for delta in deltas)
    return (
        _ratio(inner(total, ref), size_total * size_ref),
        _ratio(inner(total, it), size_total * size_it),
        _ratio(size_ref, size_total),
    )


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, torch.nan)


def _top_union(logp: Mapping[str, Tensor], top_k: int) -> tuple[Tensor, Tensor]:
    """Indices (T, 3k) of the three roles' top k, and 1 at the first occurrence of each index, else 0."""
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; give 1 or more entries")
    k = min(top_k, logp["student"].shape[-1])
    at = torch.cat([logp[role].topk(k, dim=-1).indices for role in ("student", "teacher", "reference")], dim=-1)
    at = at.sort(dim=-1).values
    once = torch.ones(at.shape, dtype=logp["student"].dtype, device=at.device)
    once[:, 1:] = (at[:, 1:] != at[:, :-1]).to(once.dtype)
    return at, once


def entropy(logp: Tensor) -> Tensor:
    """Shannon entropy −Σ P·log P of each position, (T, V) → (T,) nats. Source: textbook. Differs: no."""
    return -torch.linalg.vecdot(logp.exp(), logp)


def kl(one_logp: Tensor, other_logp: Tensor) -> Tensor:
    """KL(one ‖ other) of each position, (T, V) → (T,) nats; 0 iff equal. Source: textbook. Differs: no."""
    return torch.linalg.vecdot(one_logp.exp(), log_ratio(one_logp, other_logp))


def mass_outside_top(logp: Tensor, base_logp: Tensor, *, top_k: int = 20) -> Tensor:
    """Probability that ``logp`` puts outside the base's top k entries, (T,), in [0, 1].

    Tells whether a tilt has lifted tokens the base would never say (a saturated entry gains up to e^(c/β)).
    Source: ours, for the purified target of arXiv 2607.02234. Differs: not in the paper.
    """
    top = base_logp.topk(min(top_k, base_logp.shape[-1]), dim=-1).indices
    return (1.0 - logp.gather(-1, top).exp().sum(-1)).clamp(0.0, 1.0)


@torch.no_grad()
def position_values(logp: Mapping[str, Tensor], *, method: Method, top_k: int = 20) -> dict[str, Tensor]:
    """Every diagnostic of a few positions, (T,) each; needs student, teacher, reference and base.

    Besides :func:`decomposition`: ``entropy_<role>`` and ``entropy_target``, ``kl_from_base`` = KL(student ‖ base),
    ``kl_target_from_base`` = KL(target ‖ base), and ``target_mass_outside_base_top``; those of the target are
    missing for one that needs ``outcome``.
    """
    target = get_target(method.target)
    values = decomposition(logp, top_k=top_k)
    values |= {f"entropy_{role}": entropy(logp[role]) for role in ("student", "teacher", "reference", "base")}
    values["kl_from_base"] = kl(logp["student"], logp["base"])
    if OUTCOME in target.needs:  # such a target is made of a whole completion, which this does not see
        return values
    target_logp = target.combine({role: logp[role] for role in target.needs}, method.params)
    values["entropy_target"] = entropy(target_logp)
    values["kl_target_from_base"] = kl(target_logp, logp["base"])
    values["target_mass_outside_base_top"] = mass_outside_top(target_logp, logp["base"], top_k=top_k)
    return values


@torch.no_grad()
def diagnose(
    hidden: Mapping[str, Tensor], heads: Mapping[str, Head] | Head, *, method: Method, top_k: int = 20
) -> dict[str, Tensor]:
    """:func:`position_values` from hidden states (N, D) of student, teacher, reference and base, in blocks.

    Memory: a block of positions' vocabularies, as in the loss. ``heads``: as in ``loss.chunked_loss``.
    """
    if missing := [role for role in ("student", "teacher", "reference", "base") if role not in hidden]:
        raise ValueError(f"diagnostics need student, teacher, reference and base; {missing} were not scored")
    heads = {"student": heads} if isinstance(heads, Head) else heads
    roles = tuple(hidden)
    by_role = {role: heads.get(role, heads["student"]) for role in roles}
    n, vocab = hidden["student"].shape[0], heads["student"].size
    dtype, device = compute_dtype(hidden["student"]), hidden["student"].device
    keep_freed_memory(device)
    parts: list[dict[str, Tensor]] = []
    step = block_positions(len(roles), vocab, dtype.itemsize, device=device.type)
    rows = row_positions(vocab, device=device.type)
    for start in range(0, n, step):
        block = {role: states[start : start + step] for role, states in hidden.items()}
        size = (len(roles), block["student"].shape[0], vocab)
        logits = torch.empty(size, dtype=dtype, device=device)
        project_roles(block, by_role, roles, out=logits)
        for row in range(0, size[1], rows):
            few = logits[:, row : row + rows]
            logp = {role: normalise(few[i]) for i, role in enumerate(roles)}
            parts.append(position_values(logp, method=method, top_k=top_k))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


def summarise(
    values: Mapping[str, Tensor], *, classes: Tensor | None = None, names: Sequence[str] = ()
) -> dict[str, float]:
    """Means over positions; NaN positions are left out and counted as ``<name>_nan`` where there are any.

    ``classes``: (N,) integers that index ``names`` (for instance kinds of token); adds ``<name>[<class>]``, the mean
    over that class, NaN where the class is empty. A negative class belongs to none.
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        value = value.double()
        found[name] = _nanmean(value)
        if undefined := int(value.isnan().sum()):
            found[f"{name}_nan"] = undefined
        for number, label in enumerate(names):
            if classes is not None:
                found[f"{name}[{label}]"] = _nanmean(value[classes == number])
    return found


def _nanmean(value: Tensor) -> float:
    kept = value[~value.isnan()]
    return float(kept.mean()) if len(kept) else float("nan")
