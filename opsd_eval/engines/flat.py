"""A flat decode loop for small Qwen3 and Llama models on CPU, where Python and library overhead dominate.

The layers are written out over fused copies of the weights: one product for queries, keys and values, one for gate and
up projection; norm weights are folded into the products that follow, and the query/key norm weights and the attention
scale into the rotation tables. The weights are copied at the start of every ``generate``, so training in
between is picked up. A test holds the logits to transformers' own within 1e-4.

Legend: B rows, T columns, D hidden, V vocabulary, G key-value heads, R query heads for each of them, E head size.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opsd_eval.engines.cache import grown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MODELS = ("Qwen3ForCausalLM", "LlamaForCausalLM")
_ROPE = ("default", "linear", "llama3", "yarn")  # rotations whose frequencies do not depend on the length
_MOST_PARAMETERS = 300_000_000  # beyond, the copy costs more memory than the overhead is worth


def is_flat(model: PreTrainedModel) -> bool:
    """Whether the flat loop computes exactly this model: architecture, options, device, precision, adapters."""
    base = _unwrapped(model)
    config = base.config
    if type(base).__name__ not in _MODELS or not type(base).__module__.startswith("transformers."):
        return False
    attention_only = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    plain = not getattr(config, "attention_bias", False) and not getattr(config, "mlp_bias", False)
    rope = (config.rope_parameters or {}).get("rope_type", "default") in _ROPE
    return (
        attention_only and plain and rope and config.hidden_act == "silu"
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in base.parameters())
        and sum(p.numel() for p in base.parameters()) <= _MOST_PARAMETERS
        and all(_is_readable(module) for module in _projections(base))
    )  # fmt: skip


def _unwrapped(model: Any) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if type(model).__module__.startswith("peft.") else model


def _projections(base: Any) -> list[Any]:
    found = [base.lm_head]
    for layer in base.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        found += [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        found += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return found


def _is_readable(module: Any) -> bool:
    """A plain linear layer, or peft's plain LoRA around one (no DoRA or other variant, nothing mixed)."""
    if type(module) is torch.nn.Linear:
        return True
    if type(module).__module__ != "peft.tuners.lora.layer" or type(module).__name__ != "Linear":
        return False
    variants = getattr(module, "lora_variant", {})
    return type(module.base_layer) is torch.nn.Linear and not any(name in variants for name in module.active_adapters)


def _weight(module: Any) -> Tensor:
    """The weight (out, in) that a projection applies now, active adapters included."""
    if type(module) is torch.nn.Linear:
        return module.weight
    weight = module.base_layer.weight
    if module.disable_adapters or module.merged:
        return weight
    for name in module.active_adapters:
        if name in module.lora_A:
            weight = weight + module.get_delta_weight(name)
    return weight


@dataclass
class _Layer:
    """Fused weights of one layer, each stored (out, in)."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class FlatCache:
    """Keys and values of every layer, (B, G, capacity, E), of which the first ``columns`` columns are in use."""

    def __init__(self, keys: list[Tensor], values: list[Tensor], columns: int) -> None:
        self.keys, self.values, self.columns = keys, values, columns
        self.start: Tensor | None = None  # the row starts that ``bias`` was made for
        self.bias: Tensor = torch.empty(0)

    def take(self, rows: Tensor | None, first: int) -> None:
        """Keep these rows (all when ``None``) and the columns from ``first`` on."""
        kept = slice(None) if rows is None else rows
        for part in (self.keys, self.values):
            part[:] = [grown(t[kept, :, first : self.columns], self.columns - first, 2) for t in part]
        self.columns -= first
        self.start = None

    def insert(self, slots: Tensor, other: FlatCache, rows: Tensor) -> None:
        """Put the given rows of another cache into ``slots``, ending at the current column."""
        first, last = self.columns - other.columns, self.columns
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for to, source in zip(mine, theirs, strict=True):
                to[:, :, first:last].index_copy_(0, slots, source[rows, :, : other.columns])

    def reserve(self, columns: int) -> None:
        """Make room for that many columns."""
        if columns > self.keys[0].shape[2]:
            for part in (self.keys, self.values):
                part[:] = [grown(t, columns, 2) for t in part]
            self.start = None

    def mask_bias(self, start: Tensor) -> Tensor:
        """(B, 1, capacity): 0 from the row's start on, −inf before it; remade when the rows' starts change."""
        if self.start is not start:
            columns = torch.arange(self.keys[0].shape[2])
            hidden = (columns < start[:, None])[:, None]
            self.bias = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
            self.start = start
        return self.bias


class FlatDecoder:
    """Runs a small Qwen3 or Llama model; :func:`is_flat` says which models it computes exactly."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        base = _unwrapped(model)
        config = base.config
        self.vocabulary, self.device = vocabulary, torch.device("cpu")
        self.epsilon: float = config.rms_norm_eps
        self.groups: int = config.num_key_value_heads
        self.repeat: int = config.num_attention_heads // config.num_key_value_heads
        self.head: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.feed: int = config.intermediate_size
        self.has_norm = "q_norm" in base.model.layers[0].self_attn._modules
        self.embedding = base.model.embed_tokens.weight.detach().clone()
        self._base = base
        head = _weight(base.lm_head)[:vocabulary] * base.model.norm.weight
        self.unembedding = head
        rotary = base.model.rotary_emb
        self.frequency, self.rotary_scale = rotary.inv_freq.float().clone(), float(rotary.attention_scaling)
        self.tables: list[tuple[Tensor, Tensor]] = []
        self._make_tables(256)

    @functools.cached_property
    def layers(self) -> list[_Layer]:
        """The fused weights of all layers, read when first used."""
        return list(self.read_layers())

    def read_layers(self) -> Iterator[_Layer]:
        """The model's layers as they are now, one after the other."""
        for layer in self._base.model.layers:
            with torch.inference_mode():
                yield self._read(layer)

    def _read(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        g, r, e = self.groups, self.repeat, self.head
        before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        parts = [_weight(p) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
        shaped = [p.view(g, n, e, -1) for p, n in zip(parts, (r, 1, 1), strict=True)]
        return _Layer(
            qkv=torch.cat(shaped, dim=1).reshape(g * (r + 2) * e, -1).mul_(before),
            out=_weight(attention.o_proj).clone(),
            gate_up=torch.cat([_weight(mlp.gate_proj), _weight(mlp.up_proj)]).mul_(after),
            down=_weight(mlp.down_proj).clone(),
        )

    def _make_tables(self, positions: int) -> None:
        """Rotation tables (positions, 1, R + 1, E) of each layer, for R query heads and the key of a group."""
        angle = torch.arange(positions)[:, None].float() * self.frequency
        cos, sin = angle.cos().repeat(1, 2) * self.rotary_scale, angle.sin().repeat(1, 2) * self.rotary_scale
        sin[:, : self.head // 2] *= -1
        made: dict[int, tuple[Tensor, Tensor]] = {}
        self.tables = []
        for layer in self._base.model.layers:
            weights = (torch.ones(self.head), torch.ones(self.head))
            if self.has_norm:
                weights = (layer.self_attn.q_norm.weight, layer.self_attn.k_norm.weight)
            w = torch.stack([weights[0] * self.head**-0.5] * self.repeat + [weights[1]])
            table = (cos[:, None, None] * w, sin[:, None, None] * w.roll(self.head // 2, -1))
            self.tables.append(table if self.has_norm else made.setdefault(0, table))

    def reserve_positions(self, positions: int) -> None:
        """Make the rotation tables reach that many positions."""
        have = len(self.tables[0][0])
        if positions > have:
            self._make_tables(max(positions, 2 * have))

    def _scaled(self, x: Tensor) -> Tensor:
        """Divide by the root mean square over the last dimension (the norm's weight is folded into what follows)."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * norm.square_().mul_(1.0 / x.shape[-1]).add_(self.epsilon).rsqrt_()

    def _project(self, layer: _Layer, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys (N, G, R + 1, E), and values (N, G, E), of N positions."""
        qkv = F.linear(self._scaled(h), layer.qkv).view(len(h), self.groups, self.repeat + 2, self.head)
        qk = qkv[:, :, :-1]
        rotated = torch.addcmul(qk * cos, qk.roll(self.head // 2, -1), sin)
        if self.has_norm:
            norm = torch.linalg.vector_norm(qk, dim=-1, keepdim=True)
            rotated *= norm.square_().mul_(1.0 / self.head).add_(self.epsilon).rsqrt_()
        return rotated, qkv[:, :, -1]

    def _feed(self, layer: _Layer, h: Tensor, attended: Tensor) -> Tensor:
        h = torch.addmm(h, attended, layer.out.t())
        gate, up = F.linear(self._scaled(h), layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(h, F.silu(gate).mul_(up), layer.down.t())

    def step(self, cache: FlatCache, tokens: Tensor, start: Tensor, column: int) -> Tensor:
        """Append ``tokens`` (B,) as column ``column``; returns the next token's logits (B, V)."""
        cache.reserve(column + 1)
        self.reserve_positions(column + 1)
        cache.columns = column + 1
        rows, groups, bias = len(tokens), self.groups, cache.mask_bias(start)[:, :, : column + 1]
        position = column - start
        h = self.embedding.index_select(0, tokens)
        for layer, (cos, sin), keys, values in zip(self.layers, self.tables, cache.keys, cache.values, strict=True):
            qk, value = self._project(layer, h, cos.index_select(0, position), sin.index_select(0, position))
            keys[:, :, column] = qk[:, :, -1]
            values[:, :, column] = value
            query = qk[:, :, :-1].flatten(0, 1)
            score = torch.bmm(query, keys[:, :, : column + 1].flatten(0, 1).transpose(1, 2))
            score.view(rows, -1, column + 1).add_(bias)
            attended = torch.bmm(torch.softmax(score, -1), values[:, :, : column + 1].flatten(0, 1))
            h = self._feed(layer, h, attended.view(rows, groups * self.repeat * self.head))
        return F.linear(self._scaled(h), self.unembedding)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> FlatCache:
        """A cache whose last columns hold these prompts, shorter ones padded on the left."""
        n, width = len(prompts), max(map(len, prompts))
        shape = (n, self.groups, width + 64, self.head)
        empty = [[torch.zeros(shape) for _ in self.layers] for _ in range(2)]
        cache = FlatCache(*empty, columns=width)
        if not width:
            return cache
        self.reserve_positions(width)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        start = width - torch.tensor([len(p) for p in prompts])
        columns = torch.arange(width)
        position = (columns - start[:, None]).clamp_(min=0).flatten()
        seen = (columns[None, :, None] >= columns) & (columns >= start[:, None, None])
        seen |= torch.eye(width, dtype=torch.bool)  # a padding position sees itself: nothing at all would give NaN
        h = self.embedding.index_select(0, ids.flatten())
        for layer, (cos, sin), keys, values in zip(self.layers, self.tables, cache.keys, cache.values, strict=True):
            qk, value = self._project(layer, h, cos.index_select(0, position), sin.index_select(0, position))
            keys[:, :, :width] = qk[:, :, -1].view(n, width, self.groups, -1).transpose(1, 2)
            values[:, :, :width] = value.view(n, width, self.groups, -1).transpose(1, 2)
            query = qk[:, :, :-1].reshape(n, width, -1, self.head).transpose(1, 2)
            attended = F.scaled_dot_product_attention(
                query, keys[:, :, :width], values[:, :, :width], attn_mask=seen[:, None], scale=1.0, enable_gqa=True
            )
            h = self._feed(layer, h, attended.transpose(1, 2).reshape(n * width, -1))
        return cache
