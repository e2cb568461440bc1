"""Decoding with any transformers causal language model: one forward call a step, through the library's own code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from opsd_eval.engines.cache import RowCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = ("full_attention", "sliding_attention")


class GenericDecoder:
    """Runs a model's forward pass over rows of a :class:`~opsd_eval.engines.cache.RowCache`."""

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        config = model.config.get_text_config()
        odd = set(getattr(config, "layer_types", None) or ()) - set(_ATTENTION)
        if odd or config.is_encoder_decoder:
            raise ValueError(
                f"the transformers engine decodes models made of attention layers only; {config.model_type} has "
                f"{sorted(odd) or 'an encoder'}. Use --engine vllm or --engine server for it"
            )
        self.model = model
        self.vocabulary = vocabulary
        self.n_layers: int = config.num_hidden_layers
        self.device = model.device

    def empty(self) -> RowCache:
        """A cache without rows."""
        return RowCache(self.n_layers)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> RowCache:
        """A cache whose last columns hold these prompts, shorter ones padded on the left."""
        cache = self.empty()
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)
        width = int(lengths.max())
        if width:
            ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
            self._forward(cache, ids, width - lengths, 0)
        return cache

    def step(self, cache: RowCache, tokens: torch.Tensor, start: torch.Tensor, column: int) -> torch.Tensor:
        """Append ``tokens`` (B,) as column ``column``; returns the next token's logits (B, V) in float32."""
        return self._forward(cache, tokens[:, None], start, column)

    def _forward(self, cache: RowCache, ids: torch.Tensor, start: torch.Tensor, column: int) -> torch.Tensor:
        columns = torch.arange(column + ids.shape[1], device=self.device)
        output = self.model(
            input_ids=ids,
            attention_mask=(columns >= start[:, None]).long(),
            position_ids=(columns[None, column:] - start[:, None]).clamp(min=0),
            past_key_values=cache.library,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1, : self.vocabulary].float()
