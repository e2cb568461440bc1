"""The worlds by name, and problems drawn from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from opsd_eval.names import lookup
from opsd_eval.records import Problem, sha256_text
from opsd_eval.testbed.chains import Canonical, Chain, pool_of, sample_chain, sample_search, twin_of
from opsd_eval.testbed.design import DESIGN
from opsd_eval.testbed.traces import PLAIN, reference_text

SPLITS = {
    "corpus": ("corpus", None), "train": ("train", "id"), "id": ("test", "id"), "longer": ("test", "longer"),
    "larger": ("test", "larger"), "heldout_mix": ("test", "heldout_mix"),
}  # fmt: skip
#: The problems of ``train`` with other numbers, from the test pool: known by heart, or known how?
TWINS = "train_twins"


@dataclass(frozen=True)
class World:
    """A construction. ``expectation`` is what standard OPSD should do to accuracy *by construction*.

    ``tag`` goes into every reference; worlds of one family share one base, trained on all tags.
    """

    name: str
    family: str
    tag: str
    expectation: str
    why: str


def _hunch(tag: str) -> World:
    recovery = DESIGN.recovery[tag]
    expectation = "hurts" if recovery < DESIGN.check_rate else "helps"
    why = f"the teacher, having read the answer, checks a hunch with probability {recovery:g}; the base with "
    return World(f"hunch_{tag}", "hunch", tag, expectation, why + f"{DESIGN.check_rate:g}")


WORLDS = {
    "hunch_r10": _hunch("r10"),
    "hunch_r100": _hunch("r100"),
    "slips": World(
        "slips", "slips", PLAIN, "helps",
        "the teacher reads every step and never slips; the base slips in "
        f"{DESIGN.slip_rate:.0%} of its steps and finds it only where it looks again",
    ),
    "search": World(
        "search", "search", PLAIN, "hurts",
        "the teacher, having read the answer, opens with the right candidate and never abandons a branch; the student, "
        "which cannot know the right one, has to",
    ),
}
SWEEP = {f"hunch_{tag}": _hunch(tag) for tag in DESIGN.recovery if f"hunch_{tag}" not in WORLDS}
ALL_WORLDS = {**WORLDS, **SWEEP}


def world(name: str) -> World:
    """The world of that name; the recovery sweep's further hunch worlds count too."""
    return lookup("testbed world", name, ALL_WORLDS)


def sample_canonical(rng: random.Random, family: str, kind: str) -> Canonical:
    """A random canonical problem of a family and kind, from any pool."""
    return sample_search(rng, kind) if family == "search" else sample_chain(rng, kind)


def problems(world_name: str, split: str, n: int, seed: int) -> list[Problem]:
    """``n`` different problems of a split; the first m of n are those that asking for m gives."""
    family = world(world_name).family
    lookup("testbed split", split, {**SPLITS, TWINS: None})
    if split == TWINS:
        return _twins(world_name, canonical_problems(family, "train", n, seed), seed)
    found = canonical_problems(family, split, n, seed)
    return [as_problem(world_name, split, item) for item in found]


def _twins(world_name: str, originals: Sequence[Canonical], seed: int) -> list[Problem]:
    """One twin for each original, named by it in ``metadata["twin_of"]``."""
    found: dict[str, Problem] = {}
    for item in originals:
        if not isinstance(item, Chain):
            raise ValueError(f"{world_name} has no {TWINS}: only chains of operations have twins")
        original = as_problem(world_name, "train", item)
        rng = random.Random(f"{TWINS}/{seed}/{item.canonical}")
        while (twin := as_problem(world_name, TWINS, twin_of(item, rng))).problem_id in found:
            continue
        found[twin.problem_id] = replace(twin, metadata={**twin.metadata, "twin_of": original.problem_id})
    return list(found.values())


def canonical_problems(family: str, split: str, n: int, seed: int) -> list[Canonical]:
    """``n`` different canonical problems of a split, in the order drawn."""
    if n < 0:
        raise ValueError(f"cannot draw {n} problems; ask for 0 or more")
    pool, only_kind = lookup("testbed split", split, SPLITS)
    rng = random.Random(f"{family}/{split}/{seed}")
    kinds, weights = list(DESIGN.corpus_kinds), list(DESIGN.corpus_kinds.values())
    found: dict[str, Canonical] = {}
    misses = 0
    while len(found) < n:
        kind = only_kind or rng.choices(kinds, weights)[0]
        item = sample_canonical(rng, family, kind)
        if pool_of(item) != pool or item.canonical in found:
            misses += 1
            if misses > 1000 + 100 * n:
                raise ValueError(f"{family}.{split} has too few problems for n={n}; found {len(found)}")
            continue
        found[item.canonical] = item
    return list(found.values())


def as_problem(world_name: str, split: str, item: Canonical) -> Problem:
    """A canonical problem as a record: what the student is asked, and what privileged prompts append."""
    place = world(world_name)
    digest = sha256_text(item.canonical)[:16]
    metadata: dict[str, object] = {
        "world": world_name, "family": place.family, "canonical": item.canonical,
        "operations": [list(o) for o in item.operations],
    }
    if isinstance(item, Chain):
        metadata |= {"start": item.start, "values": list(item.values)}
    else:
        metadata |= {"candidates": list(item.candidates), "target": item.target}
    return Problem(
        problem_id=f"{world_name}/{split}/{digest}", question=item.question, answer=str(item.answer),
        reference=reference_text(place.family, item, place.tag), benchmark=f"testbed.{world_name}.{split}",
        split=split, axes={"length": item.length}, metadata=metadata,
    )
