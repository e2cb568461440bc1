"""Every choice that shapes a testbed world, in one frozen dataclass; ``README.md`` here is its rendered table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


def _choice(value: Any, group: str, effect: str) -> Any:
    """A dataclass field with its default, its group in the table and its documented effect."""
    metadata = {"group": group, "effect": effect}
    if isinstance(value, dict):
        return field(default_factory=lambda: dict(value), metadata=metadata)
    return field(default=value, metadata=metadata)


@dataclass(frozen=True)
class Design:
    """All named parameters of the testbed. Rates are probabilities; lengths count operations."""

    value_max: int = _choice(99, "problems", "Largest accumulator value; every number is one token, so 100 answers.")
    operand_max: int = _choice(9, "problems", "Operands are one digit.")
    id_value_max: int = _choice(
        69, "problems", "In-distribution problems stay at or below it; `larger` ones go above it or use a big operand."
    )
    id_operand_max: int = _choice(7, "problems", "Largest operand of an in-distribution problem.")
    short_lengths: tuple[int, ...] = _choice((2,), "problems", "Corpus only: easy chains that speed up pretraining.")
    id_lengths: tuple[int, ...] = _choice((3, 4), "problems", "Operations of OPSD-training and in-distribution chains.")
    longer_lengths: tuple[int, ...] = _choice(
        (5, 6), "problems", "Operations of `longer`: in the base's corpus, outside OPSD's data."
    )
    heldout_mix: tuple[str, ...] = _choice(
        ("-", "*"), "problems", "Chains using exactly these operations are kept out of OPSD's data (`heldout_mix`)."
    )
    corpus_kinds: Mapping[str, float] = _choice(
        {"short": 0.1, "id": 0.4, "longer": 0.2, "larger": 0.2, "heldout_mix": 0.1}, "problems",
        "Share of each kind in the base's corpus: all test kinds are inside its distribution, on other problems.",
    )
    hash_shares: Mapping[str, float] = _choice(
        {"corpus": 0.6, "train": 0.2, "test": 0.2}, "problems",
        "SHA-256 of the canonical problem picks its only pool, whatever the seeds, so nothing leaks.",
    )
    prompt_mix: tuple[float, float, float] = _choice(
        (0.6, 0.2, 0.2), "prompts",
        "Corpus share of question / question+reference / reference-only prompts: what makes one model play all roles.",
    )
    answer_only_share: float = _choice(
        0.1, "prompts",
        "Share of privileged prompts whose reference is the bare boxed answer, so that the `answer_only` "
        "control stays inside the corpus.",
    )
    hunch_right: float = _choice(
        0.2, "hunch",
        "Share of corpus hunches that are true. Not computable in one go, so sampled hunches are at chance level.",
    )
    check_rate: float = _choice(0.85, "hunch", "Share of question-only traces that check the hunch step by step.")
    recovery: Mapping[str, float] = _choice(
        {"r10": 0.1, "r25": 0.25, "r50": 0.5, "r75": 0.75, "r100": 1.0}, "hunch",
        "Share of privileged traces that still check, by the tag in the reference. Below `check_rate` the "
        "teacher un-teaches the check (standard OPSD is expected to hurt), above it the teacher reinforces it "
        "(expected to help): the sign is built in by this number.",
    )
    restate_checked: bool = _choice(
        True, "hunch, slips",
        "A check (in `slips`: a recheck or re-verification) ends by writing again the value it was held against, just "
        "before `ok` or `wait`; without it a short pretraining learns the share of `wait`, not the comparison.",
    )
    untagged_recovery: float = _choice(0.5, "hunch", "The same share when the reference carries no tag.")
    privileged_hunch_copies: float = _choice(
        0.5, "hunch",
        "Share of privileged hunches copied from the reference; the rest are blurted as without one, so that the "
        "teacher is at home on the student's wrong hunches (it then answers from the reference).",
    )
    slip_rate: float = _choice(0.15, "slips", "Share of question-only steps first written wrong.")
    slip_distances: tuple[int, ...] = _choice(
        (20, 30, 40), "slips",
        "How far off a slip is, either way. A base of this size compares two numbers by their distance: slips of 1 "
        "or 2 went unnoticed by most rechecks.",
    )
    recheck_rate: float = _choice(
        0.4, "slips",
        "Share of question-only steps that are worked out again at once, slipped or not: the only way to find a slip "
        "(`check … was 42 wait`). The other slips carry on to a wrong answer unless the chain is re-verified: what "
        "keeps the base below 1 without undertraining it. Corrections out of the blue (`= 42 wait`) are hardly "
        "learnt: where they are due the right value is nowhere to be read.",
    )
    reverify_rate: float = _choice(
        0.3, "slips", "Share of question-only traces that redo the whole chain at the end, and so find what slipped by."
    )
    hedge_rate: float = _choice(0.15, "slips", "Share of question-only steps opened with `maybe`.")
    privileged_slip_rate: float = _choice(
        0.0, "slips",
        "The same rate in traces that see a reference (which holds every step). At zero the teacher is a cleaner "
        "solver of the same steps: standard OPSD is expected to help, and markers to fall. Built in.",
    )
    privileged_marker_rate: float = _choice(0.0, "slips", "Rechecks, re-verifications and hedges with a reference.")
    reference_steps: bool = _choice(
        True, "slips",
        "The reference writes out every step, as a full solution does; it then holds all that the question says. With "
        "the values alone a reference-only prompt leaves the operations to be guessed back, and is hardly learnt.",
    )
    id_candidates: tuple[int, ...] = _choice(
        (3, 4), "search", "Candidates of in-distribution problems (`length` axis)."
    )
    longer_candidates: tuple[int, ...] = _choice((5, 6), "search", "Candidates of `longer` problems.")
    search_operations: int = _choice(2, "search", "Operations applied to each candidate.")
    restate_target: bool = _choice(
        True, "search", "The target is written again just before each verdict; without it the verdict is not learnt."
    )
    restate_tried: bool = _choice(
        True, "search",
        "A miss ends by writing the candidate again (`no wait was 4`), so that the next in the list is the one that "
        "followed it. Candidates are tried in listed order: in random order, from a random one on round the list, or "
        "drawn anew each time, a base of this size tries numbers twice or numbers that are not in the list.",
    )
    guess_rate: float = _choice(
        0.3, "search",
        "Share of misses after which a question-only trace stops trying and answers with the next candidate untested "
        "(`so`): what keeps the base below 1 without undertraining it.",
    )
    privileged_branch_rate: float = _choice(
        0.0, "search",
        "Share of traces with a reference that go through the list and guess like those without; the others "
        "open with the right one and so never abandon a branch. The first candidate cannot be learnt from the "
        "question, but \"the first one is right\" can: standard OPSD is expected to hurt. Built in.",
    )


DESIGN = Design()


def design_values(family: str, design: Design = DESIGN) -> dict[str, Any]:
    """The choices that shape a family's corpus as plain JSON values, as a base's ``base.json`` records them."""
    shared = ("problems", "prompts", family)
    names = [f.name for f in fields(design) if set(f.metadata["group"].split(", ")) & set(shared)]
    return json.loads(json.dumps({name: value for name, value in asdict(design).items() if name in names}))


def design_table(design: Design = DESIGN) -> str:
    """The parameter table as Markdown, one row a field in declaration order."""
    rows = ["| group | parameter | value | effect |", "|---|---|---|---|"]
    for item in fields(design):
        value = getattr(design, item.name)
        shown = ", ".join(f"{k} {v:g}" for k, v in value.items()) if isinstance(value, Mapping) else repr(value)
        rows.append(f"| {item.metadata['group']} | `{item.name}` | {shown} | {item.metadata['effect']} |")
    return "\n".join(rows) + "\n"
