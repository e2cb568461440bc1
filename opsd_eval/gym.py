"""Problems from reasoning-gym families, with leak-safe splits and a strict check of answers.

A name is ``reasoning_gym.<family>[.<level>]``; a level is a number (every attribute of the family's curriculum at that
level) or single attributes as in ``num_terms=3+num_digits=0``. In reasoning-gym item i of seed s is item 0 of seed
s + i, so two nearby seeds share most items, and small families repeat questions. Two guards: seeds of different
splits, levels and ``seed`` lie far apart; and the split of a question is decided by a hash of its content, so that
train and test cannot share one whatever the seeds.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from opsd_eval.gym_references import gym_reference
from opsd_eval.names import lookup
from opsd_eval.records import Problem, sha256_text

#: Families whose answer is unique and which are feasible for small models → the level used when none is named (the
#: lowest with enough different questions).
REASONING_GYM_FAMILIES = {
    "chain_sum": 1, "basic_arithmetic": 1, "products": 1, "decimal_chain_sum": 0, "leg_counting": 2, "gcd": 0, "lcm": 0,
    "fraction_simplification": 0, "simple_equations": 0, "prime_factorization": 1, "count_bits": 1, "gsm_symbolic": 0,
    "calendar_arithmetic": 1, "time_intervals": 1, "family_relationships": 1, "syllogism": 0, "knights_knaves": 0,
    "letter_counting": 0, "spell_backward": 1,
}  # fmt: skip
#: Levels above these never finish generating in the library.
_HIGHEST_LEVEL = {"number_sequence": 0}
#: Families whose own scorer was read and found to run no code from the answer; the others' answers must match exactly.
_SAFE_SCORERS = frozenset({
    "calendar_arithmetic", "chain_sum", "decimal_chain_sum", "family_relationships", "gsm_symbolic", "knights_knaves",
    "prime_factorization", "products", "spell_backward", "time_intervals",
})  # fmt: skip
#: Families where several answers are right, so that an exact match would call right answers wrong.
_OWN_SCORER_NEEDED = frozenset({
    "arc_agi", "binary_matrix", "boxnet", "circuit_logic", "composite", "countdown", "cryptarithm", "emoji_mystery",
    "futoshiki", "game_of_life_halting", "graph_color", "group_anagrams", "intermediate_integration", "jugs",
    "kakurasu", "knight_swap", "letter_jumble", "mini_sudoku", "n_queens", "palindrome_generation", "path_star",
    "polynomial_equations", "polynomial_multiplication", "propositional_logic", "puzzle24", "quantum_lock",
    "rubiks_cube", "rush_hour", "shortest_path", "simple_integration", "sokoban", "string_insertion", "sudoku",
    "survo", "tower_of_hanoi", "word_ladder",
})  # fmt: skip
_CHUNK = 2_000  # items of one library data set: fixed, because an item's index and size enter some families' items
_SPLIT_OFFSET = {"train": 0, "test": 5_000_000}


def load_gym(family: str, level: str | None, *, limit: int | None, seed: int, split: str | None) -> list[Problem]:
    """Different problems of a family: ``limit`` of them (default up to 200), the first m of n being those of m."""
    split = split or "test"
    lookup("reasoning_gym split", split, _SPLIT_OFFSET)
    if not 0 <= seed <= 400:
        raise ValueError(f"seed is {seed}; reasoning_gym problems take seeds from 0 to 400")
    levels = level or str(REASONING_GYM_FAMILIES.get(family, 0))
    wanted = 200 if limit is None else limit
    found: dict[str, Problem] = {}
    for entry in _entries(family, levels, seed=seed, split=split, wanted=wanted):
        if len(found) >= wanted:
            break
        problem = _problem(family, levels, split, entry)
        if _split_of(entry) == split:
            found.setdefault(problem.problem_id, problem)
    if limit is not None and len(found) < limit:
        raise ValueError(
            f"reasoning_gym.{family} at level {levels} has {len(found)} different questions in its {split} split, "
            f"{limit} were asked for; ask for fewer or name a higher level"
        )
    return list(found.values())


def gym_correct(problem: Problem, answer: str | None) -> bool | None:
    """Whether an answer earns full credit (1.0, never partial) from the family's rule; ``None`` where none is safe.

    ``answer`` is the extracted answer, not the completion: some families read the first number they meet. A problem
    that lacks the family's ``entry``, as one of a foreign log may, has no rule.
    """
    if answer is None or problem.answer is None:
        return False
    family, wanted = str(problem.metadata.get("family")), str(problem.answer)
    given, gold = (" ".join(text.strip().strip("$").split()) for text in (answer, wanted))
    if given.casefold() == gold.casefold():
        return True
    if family in _OWN_SCORER_NEEDED:
        return None
    if family not in _SAFE_SCORERS or len(answer) > 1000:
        return False
    entry = {"question": problem.question, "answer": wanted, "metadata": problem.metadata.get("entry")}
    try:
        return _scorer(family)(given, entry) == 1.0
    except (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
        return False  # the library's scorers raise on junk


@functools.cache
def _scorer(family: str) -> Any:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(family)


def _dataset(family: str, levels: str, *, size: int, seed: int) -> Any:
    from reasoning_gym.factory import CURRICULA, DATASETS, create_dataset

    lookup("reasoning_gym family", family, DATASETS)
    if family not in CURRICULA:
        if levels != "0":
            raise ValueError(f"reasoning_gym.{family} has no curriculum, so no level {levels!r}; leave the level out")
        return create_dataset(family, size=size, seed=seed)
    curriculum: Any = CURRICULA[family]()  # type: ignore[operator]
    attributes = curriculum._attributes
    for name, level in _parse_levels(family, levels, list(attributes)).items():
        highest = min(len(attributes[name].levels) - 1, _HIGHEST_LEVEL.get(family, 99))
        if level > highest and not levels.isdigit():
            raise ValueError(f"reasoning_gym.{family}: {name} has levels 0 to {highest}, not {level}")
        curriculum.set_attr_level(name, min(level, highest))
    if levels.isdigit() and int(levels) > max(_highest(family, attribute) for attribute in attributes.values()):
        raise ValueError(f"reasoning_gym.{family}: level {levels} is above the highest level of every attribute")
    return DATASETS[family][0](curriculum.generate_configuration({"size": size, "seed": seed}))


def _highest(family: str, attribute: Any) -> int:
    return min(len(attribute.levels) - 1, _HIGHEST_LEVEL.get(family, 99))


def _parse_levels(family: str, levels: str, attributes: list[str]) -> dict[str, int]:
    """``"2"`` → every attribute at 2; ``"num_terms=3+num_digits=0"`` → these, the others at 0."""
    if levels.isdigit():
        return dict.fromkeys(attributes, int(levels))
    chosen = dict.fromkeys(attributes, 0)
    for part in levels.split("+"):
        name, _, value = part.partition("=")
        lookup(f"attribute of reasoning_gym.{family}", name, chosen)
        if not value.isdigit():
            raise ValueError(f"reasoning_gym.{family}: level {part!r} should read {name}=NUMBER")
        chosen[name] = int(value)
    return chosen


def _entries(family: str, levels: str, *, seed: int, split: str, wanted: int) -> Iterator[dict[str, Any]]:
    """Raw entries from seeds that no other (seed, split) uses, until 40 times what is wanted has been looked at."""
    start = seed * 10_000_000 + _SPLIT_OFFSET[split]
    for number in range(1 + wanted * 40 // _CHUNK):
        dataset = _dataset(family, levels, size=_CHUNK, seed=start + number * _CHUNK)
        for index in range(_CHUNK):
            yield dataset[index]


def _canonical(entry: dict[str, Any]) -> str:
    """What makes two questions the same problem: the expression where there is one, else the wording."""
    return str(entry["metadata"].get("expression") or " ".join(entry["question"].split()).casefold())


def _split_of(entry: dict[str, Any]) -> str:
    """One question in four is for testing, decided by the question alone."""
    return "test" if int(sha256_text(_canonical(entry))[:8], 16) % 4 == 0 else "train"


def _problem(family: str, levels: str, split: str, entry: dict[str, Any]) -> Problem:
    metadata = json.loads(json.dumps(entry["metadata"], default=str))
    answer = None if entry["answer"] is None else str(entry["answer"]).strip("$")
    axes = {name: metadata[name] for name in ("num_terms", "num_digits") if isinstance(metadata.get(name), int)}
    cluster = None
    if family == "gsm_symbolic":  # one template asks for one set of variables
        cluster = "gsm_symbolic/" + sha256_text(",".join(sorted(metadata["variables"])))[:8]
    return Problem(
        problem_id=f"{family}/{levels}/{split}/{sha256_text(_canonical(entry))[:16]}",
        question=entry["question"].strip(),
        answer=answer,
        reference=None if answer is None else gym_reference(family, metadata, answer),
        benchmark=f"reasoning_gym.{family}.{levels}",
        split=split,
        axes={"level": levels, **axes},
        cluster=cluster,
        metadata={"family": family, "level": levels, "scorer": "reasoning_gym", "entry": metadata},
    )
