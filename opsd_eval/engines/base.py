"""What every engine has in common: requests and completions as token ids, and a random stream for each row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. ``temperature`` 0 is greedy, ``top_k`` 0 and ``top_p`` 1 are off.

    ``stop_token_ids`` are stopped at in addition to the model's own end tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 1024
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checks = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
        }
        for name, (fine, allowed) in checks.items():
            if not fine:
                raise ValueError(f"sampling.{name} is {getattr(self, name)}; it must be {allowed}")


@dataclass(frozen=True)
class Request:
    """One row to generate: draw number ``draw`` of a problem, from these prompt token ids."""

    problem_id: str
    draw: int
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """The generated token ids of one request.

    ``token_ids`` end with the stop token when ``finish_reason`` is ``stop``. ``logp`` holds, for each token, its
    log-probability in nats under the raw distribution (temperature 1, no top-k or top-p).
    """

    problem_id: str
    draw: int
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    logp: tuple[float, ...] | None = None


class Engine(Protocol):
    """Generates completions. Rows come back as they finish, in any order; each has its own random stream."""

    def generate(
        self, requests: Iterable[Request], *, sampling: Sampling, logprobs: bool = False
    ) -> Iterator[Completion]:
        """Yield one completion for every request."""
        ...


def row_seed(seed: int, problem_id: str, draw: int) -> int:
    """A 63-bit seed for one row, from SHA-256 of (seed, problem_id, draw): the same wherever the row is computed."""
    text = f"{seed}\x00{problem_id}\x00{draw}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def end_ids(*sources: object) -> list[int]:
    """Token ids that end a row, sorted, from ids and lists of ids; a missing one (``None``) is left out."""
    found: set[int] = set()
    for source in sources:
        ids = source if isinstance(source, list | tuple) else [source]
        found |= {token_id for token_id in ids if isinstance(token_id, int)}
    return sorted(found)


def check_requests(requests: Iterable[Request]) -> list[Request]:
    """The requests as a list; an empty prompt or one (problem_id, draw) asked for twice is an error."""
    found = list(requests)
    seen: set[tuple[str, int]] = set()
    for request in found:
        key = (request.problem_id, request.draw)
        if key in seen:
            raise ValueError(f"draw {request.draw} of problem {request.problem_id!r} is requested twice")
        if not request.prompt_ids:
            raise ValueError(f"problem {request.problem_id!r} has an empty prompt; a prompt needs at least one token")
        seen.add(key)
    return found
