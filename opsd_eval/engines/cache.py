"""Key-value storage whose rows can leave, be replaced and be trimmed while a batch is being decoded.

All rows share one write column: row b's tokens lie in columns ``start[b] .. columns - 1``, whatever its age, so a new
prompt is written so that it ends at the current column and a step appends one column for every row.
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer

_SPARE = 64  # columns allocated ahead


def grown(buffer: torch.Tensor, columns: int, dim: int) -> torch.Tensor:
    """The buffer with room for more than ``columns`` entries along ``dim``; the old content is copied."""
    shape = list(buffer.shape)
    shape[dim] = columns + max(_SPARE, columns // 2)
    larger = buffer.new_empty(shape)
    larger.narrow(dim, 0, buffer.shape[dim]).copy_(buffer)
    return larger


class GrowingLayer(DynamicLayer):
    """A transformers cache layer that appends into spare room instead of copying the whole cache each step.

    It subclasses the library's layer because the model only accepts that type; ``keys`` and ``values`` stay what the
    library expects, views of the columns in use.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate room for the first columns."""
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads, columns, _ = key_states.shape
        self._set(
            *(s.new_empty(rows, heads, columns + _SPARE, s.shape[-1]) for s in (key_states, value_states)), columns=0
        )
        self.is_initialized = True

    def _set(self, key_buffer: torch.Tensor, value_buffer: torch.Tensor, *, columns: int) -> None:
        self._buffers, self._columns = (key_buffer, value_buffer), columns
        self.keys, self.values = self._views()

    def _views(self) -> tuple[torch.Tensor, torch.Tensor]:
        key_buffer, value_buffer = self._buffers
        return key_buffer[:, :, : self._columns], value_buffer[:, :, : self._columns]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns in place; returns all keys and values, as the library's layer does."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        total = self._columns + key_states.shape[2]
        key_buffer, value_buffer = self._buffers
        if total > key_buffer.shape[2]:
            key_buffer, value_buffer = grown(key_buffer, total, 2), grown(value_buffer, total, 2)
        key_buffer[:, :, self._columns : total] = key_states
        value_buffer[:, :, self._columns : total] = value_states
        self._set(key_buffer, value_buffer, columns=total)
        return self._views()

    def take(self, rows: torch.Tensor | None, first: int) -> None:
        """Keep these rows (all when ``None``) and the columns from ``first`` on."""
        columns = self._columns - first
        kept = slice(None) if rows is None else rows
        self._set(*(grown(view[kept, :, first:], columns, 2) for view in self._views()), columns=columns)

    def insert(self, slots: torch.Tensor, other: GrowingLayer, rows: torch.Tensor) -> None:
        """Overwrite the last columns of ``slots`` with the given rows of another layer (the prompts of new rows)."""
        for mine, theirs in zip(self._views(), other._views(), strict=True):
            mine[:, :, self._columns - other._columns :].index_copy_(0, slots, theirs[rows])


class RowCache:
    """The growing layers of a whole model; ``library`` is the object to pass as ``past_key_values``."""

    def __init__(self, n_layers: int) -> None:
        self.layers = [GrowingLayer() for _ in range(n_layers)]
        self.library = Cache(layers=list(self.layers))

    def take(self, rows: torch.Tensor | None, first: int) -> None:
        """Keep these rows and the columns from ``first`` on, in every layer."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.take(rows, first)

    def insert(self, slots: torch.Tensor, other: RowCache, rows: torch.Tensor) -> None:
        """Put the given rows of another cache into ``slots``, ending at the current column."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if theirs.is_initialized:
                mine.insert(slots, theirs, rows)
