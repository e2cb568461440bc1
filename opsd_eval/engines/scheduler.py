"""Keeps a batch of rows busy: admits prompts, advances every row by one token a step, lets finished rows leave.

Rows are admitted longest prompt first, so a later prompt always fits into the columns in use. A row that ends is
handed out at once; its place is refilled as soon as enough places are free, and when no request waits, the batch
shrinks. Legend: B rows, V vocabulary; a *column* is a position of the shared key-value storage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from opsd_eval.engines.base import Completion, Request, Sampling, row_seed
from opsd_eval.engines.cache import grown
from opsd_eval.engines.streams import pick_tokens, token_logp, uniforms

_BLOCK = 64  # random numbers drawn ahead for each row


class Decoder(Protocol):
    """What the scheduler needs of a model: a prompt pass and a step (caches are the decoder's own type)."""

    vocabulary: int
    device: torch.device

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Any:
        """A cache whose last columns hold these prompts, padded on the left."""
        ...

    def step(self, cache: Any, tokens: torch.Tensor, start: torch.Tensor, column: int) -> torch.Tensor:
        """Append one token a row; returns the next token's logits (B, V)."""
        ...


def decode(
    decoder: Decoder, requests: Sequence[Request], *, sampling: Sampling, stop: Sequence[int], batch_size: int,
    logprobs: bool,
) -> Iterator[Completion]:  # fmt: skip
    """Yield a completion for every request, each as soon as its row ends."""
    queue = deque(sorted(requests, key=lambda r: -len(r.prompt_ids)))
    while queue:
        first = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
        batch = _Batch(decoder, first, sampling=sampling, stop=stop, logprobs=logprobs)
        while batch.n_alive:
            yield from batch.advance()
            batch.refill(queue)


class _Batch:
    """Rows being decoded together; everything indexed by row has B entries."""

    @torch.inference_mode()
    def __init__(
        self, decoder: Decoder, requests: list[Request], *, sampling: Sampling, stop: Sequence[int], logprobs: bool
    ) -> None:
        self.decoder, self.sampling, device = decoder, sampling, decoder.device
        self.is_stop = torch.zeros(decoder.vocabulary, dtype=torch.bool, device=device)
        self.is_stop[[token for token in stop if token < decoder.vocabulary]] = True
        n = len(requests)
        self.requests: list[Request | None] = list(requests)
        self.seeds = np.array([row_seed(sampling.seed, r.problem_id, r.draw) for r in requests], dtype=np.uint64)
        lengths = [len(r.prompt_ids) - 1 for r in requests]
        self.column = max(lengths)  # the column that the next step writes
        cache, rows = _prompt_cache(decoder, requests)
        self.cache = cache
        if rows.tolist() != list(range(n)) or self.column == 0:
            self.cache.take(rows, 0)
        self.start = self.column - torch.tensor(lengths, device=device)
        self.first = np.full(n, self.column + 1)  # column of the row's first completion token
        self.pending = torch.tensor([r.prompt_ids[-1] for r in requests], device=device)
        self.alive = torch.ones(n, dtype=torch.bool, device=device)
        self.n_alive = n
        self.ids = torch.zeros(n, self.column + _BLOCK, dtype=torch.long, device=device)
        self.logp = torch.zeros(n, self.column + _BLOCK, device=device) if logprobs else None
        self._set_limit()
        self._draw(self.column + 1)

    def _set_limit(self) -> None:
        """The first column at which some living row reaches its greatest length."""
        living = [int(f) for f, request in zip(self.first, self.requests, strict=True) if request is not None]
        self.limit = min(living, default=0) + self.sampling.max_new_tokens - 1

    def _draw(self, column: int) -> None:
        """Random numbers for the tokens of ``column`` and of those after it."""
        self.uniform_column = column
        if self.sampling.temperature > 0:
            block = uniforms(self.seeds, self.uniform_column - self.first, _BLOCK)
            self.uniform = torch.from_numpy(block.T.copy()).to(self.decoder.device)[:, :, None]

    @torch.inference_mode()
    def advance(self) -> list[Completion]:
        """One token for every row; returns the completions of the rows that ended with it."""
        logits = self.decoder.step(self.cache, self.pending, self.start, self.column)
        self.column += 1
        if self.column - self.uniform_column >= _BLOCK:
            self._draw(self.column)
        if self.column >= self.ids.shape[1]:
            self.ids = grown(self.ids, self.column, 1)
            self.logp = grown(self.logp, self.column, 1) if self.logp is not None else None
        number = self.uniform[self.column - self.uniform_column] if self.sampling.temperature > 0 else self.start
        self.pending = pick_tokens(logits, number, self.sampling)
        self.ids[:, self.column] = self.pending
        if self.logp is not None:
            self.logp[:, self.column] = token_logp(logits, self.pending)
        ended = self.is_stop[self.pending] & self.alive
        if self.column >= self.limit:
            too_long = self.first + self.sampling.max_new_tokens - 1 <= self.column
            ended |= torch.from_numpy(too_long).to(ended.device) & self.alive
        found = self._leave(ended.nonzero().flatten().tolist())
        if self.column >= self.limit:
            self._set_limit()
        return found

    def _leave(self, rows: list[int]) -> list[Completion]:
        """Take these rows' completions out; their places are free from now on."""
        if not rows:
            return []
        self.alive[rows] = False
        self.n_alive -= len(rows)
        last = self.column + 1
        ids = self.ids[rows, :last].cpu()
        stopped = self.is_stop[self.pending[rows]].tolist()
        logp = self.logp[rows, :last].cpu() if self.logp is not None else None
        found = []
        for i, row in enumerate(rows):
            request, first = self.requests[row], self.first[row]
            assert request is not None
            self.requests[row] = None
            found.append(
                Completion(
                    request.problem_id, request.draw, tuple(ids[i, first:].tolist()),
                    "stop" if stopped[i] else "length",
                    tuple(logp[i, first:].tolist()) if logp is not None else None,
                )
            )  # fmt: skip
        return found

    @torch.inference_mode()
    def refill(self, queue: deque[Request]) -> None:
        """Fill free places from the queue, or shrink the batch when the queue is empty."""
        rows = len(self.requests)
        free = rows - self.n_alive
        if not self.n_alive or not free:
            return
        if queue and free * 8 >= rows:
            self._trim()
            self._admit(queue)
        elif not queue and free * 3 >= rows:
            self._keep([row for row, request in enumerate(self.requests) if request is not None])

    def _trim(self) -> None:
        """Drop leading columns that no living row uses, when they are many enough to be worth the copy."""
        unused = int(self.start[self.alive].min())
        if unused * 4 >= self.column and unused >= 16:
            self._take(None, unused)

    def _keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.decoder.device)
        self.requests = [self.requests[row] for row in rows]
        self.seeds, self.first = self.seeds[rows], self.first[rows]
        self.pending, self.alive = self.pending[index], self.alive[index]
        self._take(index, int(self.start[index].min()))

    def _take(self, rows: torch.Tensor | None, first: int) -> None:
        """Keep these rows (all when ``None``) and the columns from ``first`` on; column numbers move with them."""
        self.cache.take(rows, first)
        kept = slice(None) if rows is None else rows
        self.ids = self.ids[kept, first:]
        self.logp = self.logp[kept, first:] if self.logp is not None else None
        self.start = (self.start[kept] - first).clamp_(min=0)
        self.first = self.first - first
        self.column -= first
        self._set_limit()
        self._draw(self.column + 1)

    def _admit(self, queue: deque[Request]) -> None:
        """Put waiting requests into the free places; their prompts end at the current column."""
        places = [row for row, request in enumerate(self.requests) if request is None][: len(queue)]
        new = [queue.popleft() for _ in places]
        cache, rows = _prompt_cache(self.decoder, new)
        index = torch.tensor(places, device=self.decoder.device)
        self.cache.insert(index, cache, rows)
        lengths = torch.tensor([len(r.prompt_ids) - 1 for r in new], device=self.decoder.device)
        self.start = self.start.index_copy(0, index, self.column - lengths)
        self.pending[index] = torch.tensor([r.prompt_ids[-1] for r in new], device=self.decoder.device)
        self.alive[index] = True
        for place, request in zip(places, new, strict=True):
            self.requests[place] = request
            self.seeds[place] = row_seed(self.sampling.seed, request.problem_id, request.draw)
            self.first[place] = self.column + 1
        self.n_alive += len(new)
        self._set_limit()
        self._draw(self.column + 1)


def _prompt_cache(decoder: Decoder, requests: Sequence[Request]) -> tuple[Any, torch.Tensor]:
    """A cache of the requests' different prompts but for their last token, and each request's row in it."""
    different = {prompt: row for row, prompt in enumerate(dict.fromkeys(r.prompt_ids[:-1] for r in requests))}
    rows = torch.tensor([different[r.prompt_ids[:-1]] for r in requests], device=decoder.device)
    return decoder.prefill(list(different)), rows
