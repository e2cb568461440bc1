"""Canonical problems: chains of one-digit operations on a two-digit accumulator, and searches over such chains.

A problem's *kind* (short, id, longer, larger, heldout_mix) follows from its content alone, and so does its
*pool* (corpus, train, test): the SHA-256 of its canonical form. A split is a kind and a pool.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass

from opsd_eval.testbed.design import DESIGN, Design

OPERATIONS = ("+", "-", "*")
KINDS = ("short", "id", "longer", "larger", "heldout_mix")
Operation = tuple[str, int]


def apply(value: int, operation: Operation) -> int:
    """One operation on the accumulator: ``apply(17, ("+", 5)) == 22``."""
    symbol, operand = operation
    if symbol == "+":
        return value + operand
    return value - operand if symbol == "-" else value * operand


def run_operations(start: int, operations: Iterable[Operation]) -> tuple[int, ...]:
    """The accumulator after each operation, left to right."""
    values = []
    for operation in operations:
        start = apply(start, operation)
        values.append(start)
    return tuple(values)


@dataclass(frozen=True)
class Chain:
    """Start value and operations, applied left to right."""

    start: int
    operations: tuple[Operation, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """The accumulator after each operation."""
        return run_operations(self.start, self.operations)

    @property
    def answer(self) -> int:
        """The last value."""
        return self.values[-1]

    @property
    def length(self) -> int:
        """Number of operations."""
        return len(self.operations)

    @property
    def canonical(self) -> str:
        """Text that identifies the problem, whatever the world and the seed."""
        return f"chain:{self.start}:" + ":".join(f"{s}{n}" for s, n in self.operations)

    @property
    def question(self) -> str:
        """The user's text."""
        return f"start {self.start} " + " ".join(f", {s} {n}" for s, n in self.operations) + " ?"


@dataclass(frozen=True)
class Search:
    """Which of the candidates gives the target? ``answer`` is one of them, and the only one that does."""

    candidates: tuple[int, ...]
    operations: tuple[Operation, ...]
    answer: int

    @property
    def target(self) -> int:
        """The value that the right candidate reaches."""
        return run_operations(self.answer, self.operations)[-1]

    @property
    def length(self) -> int:
        """Number of candidates."""
        return len(self.candidates)

    @property
    def canonical(self) -> str:
        """Text that identifies the problem: the candidates' order does not count."""
        listed = ",".join(map(str, sorted(self.candidates)))
        return f"search:{listed}:" + ":".join(f"{s}{n}" for s, n in self.operations) + f":{self.target}"

    @property
    def question(self) -> str:
        """The user's text."""
        listed = " ".join(map(str, self.candidates))
        return f"find x in {listed} : x " + " ".join(f", {s} {n}" for s, n in self.operations) + f" is {self.target} ?"


Canonical = Chain | Search


def pool_of(problem: Canonical, design: Design = DESIGN) -> str:
    """The pool (corpus, train or test) that the hash of the canonical problem assigns it to."""
    digest = hashlib.sha256(problem.canonical.encode()).digest()
    point, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for pool, share in design.hash_shares.items():
        edge += share
        if point < edge:
            return pool
    return list(design.hash_shares)[-1]


def kind_of(problem: Canonical, design: Design = DESIGN) -> str:
    """The problem's kind; exactly one difficulty axis differs from ``id``, anything else is refused."""
    chains = [problem] if isinstance(problem, Chain) else [Chain(c, problem.operations) for c in problem.candidates]
    is_chain = isinstance(problem, Chain)
    ordinary = design.id_lengths if is_chain else design.id_candidates
    large = any(max(c.start, *c.values) > design.id_value_max for c in chains) or any(
        n > design.id_operand_max for _, n in problem.operations
    )
    heldout = {s for s, _ in problem.operations} == set(design.heldout_mix)
    length = {
        **dict.fromkeys(design.short_lengths if is_chain else (), "short"),
        **dict.fromkeys(ordinary, "id"),
        **dict.fromkeys(design.longer_lengths if is_chain else design.longer_candidates, "longer"),
    }.get(problem.length)
    odd = [name for name, is_so in (("larger", large), ("heldout_mix", heldout)) if is_so]
    if length is None or len(odd) + (length != "id") > 1:
        raise ValueError(f"{problem.canonical} differs from in-distribution on more than one axis, or has no kind")
    return odd[0] if odd else length


def sample_chain(rng: random.Random, kind: str, design: Design = DESIGN) -> Chain:
    """A random chain of the given kind."""
    lengths = {"short": design.short_lengths, "longer": design.longer_lengths}.get(kind, design.id_lengths)
    value_max, operand_max = _limits(kind, design)
    while True:
        chain = _walk(rng, rng.choice(lengths), value_max, operand_max, _symbols(kind, design))
        if chain is not None and _is_kind(chain, kind, design):
            return chain


def sample_search(rng: random.Random, kind: str, design: Design = DESIGN) -> Search:
    """A random search problem of the given kind (``short`` does not exist here and gives ``id``)."""
    kind = "id" if kind == "short" else kind
    value_max, operand_max = _limits(kind, design)
    counts = design.longer_candidates if kind == "longer" else design.id_candidates
    while True:
        chain = _walk(rng, design.search_operations, value_max, operand_max, _symbols(kind, design))
        if chain is None:
            continue
        allowed = _starts(chain.operations, value_max)
        count = rng.choice(counts)
        if len(allowed) < count:
            continue
        candidates = tuple(rng.sample(allowed, count))
        problem = Search(candidates, chain.operations, rng.choice(candidates))
        if _is_kind(problem, kind, design):
            return problem


def _starts(operations: Iterable[Operation], value_max: int) -> range:
    """The start values (1 and up) from which the accumulator, always scale · x + shift, never leaves 0 to value_max."""
    scale, shift, low, high = 1, 0, 1, value_max
    for symbol, operand in operations:
        scale, shift = (scale * operand, shift * operand) if symbol == "*" else (scale, apply(shift, (symbol, operand)))
        low, high = max(low, -(shift // scale)), min(high, (value_max - shift) // scale)
    return range(low, high + 1)


def twin_of(chain: Chain, rng: random.Random, *, pool: str = "test", design: Design = DESIGN) -> Chain:
    """The same plan with other numbers: a chain of ``pool``, of the same kind and with the same signs in order."""
    kind = kind_of(chain, design)
    value_max, operand_max = _limits(kind, design)
    for _ in range(100_000):
        operations = tuple((sign, rng.randint(2 if sign == "*" else 1, operand_max)) for sign, _ in chain.operations)
        twin = Chain(rng.randint(1, value_max), operations)
        allowed = all(0 <= value <= value_max for value in twin.values)
        if allowed and twin != chain and pool_of(twin, design) == pool and _is_kind(twin, kind, design):
            return twin
    raise ValueError(f"{chain.canonical} has no twin in the pool {pool!r}: too few chains have its signs")


def _limits(kind: str, design: Design) -> tuple[int, int]:
    large = kind == "larger"
    return (
        design.value_max if large else design.id_value_max,
        design.operand_max if large else design.id_operand_max,
    )


def _symbols(kind: str, design: Design) -> tuple[str, ...]:
    return design.heldout_mix if kind == "heldout_mix" else OPERATIONS


def _walk(
    rng: random.Random, length: int, value_max: int, operand_max: int, symbols: tuple[str, ...]
) -> Chain | None:
    start = value = rng.randint(1, value_max)
    operations = []
    for _ in range(length):
        highest = {"+": value_max - value, "-": value, "*": value_max // value if value else 0}
        lowest = {"+": 1, "-": 1, "*": 2}
        open_symbols = [s for s in symbols if highest[s] >= lowest[s]]
        if not open_symbols:
            return None
        symbol = rng.choice(open_symbols)
        operation = (symbol, rng.randint(lowest[symbol], min(operand_max, highest[symbol])))
        operations.append(operation)
        value = apply(value, operation)
    return Chain(start, tuple(operations))


def _is_kind(problem: Canonical, kind: str, design: Design) -> bool:
    try:
        return kind_of(problem, design) == kind
    except ValueError:
        return False
