"""Whose samples are these, and of what? Arm, benchmark and checkpoint of sample sets that no study put in order.

*Place* is the benchmark (and split) of a set's problems. Sets without a benchmark belong together when they share most
of their questions. *Arm* is who answered. In this order a set joins an arm that has nothing at its place yet: one named
by the user; one of the same model (``run.json``: path or hash, adapter, revision); one with the same label. A label is
the set's name without the words that all sets of its place share (``base_gsm8k`` and ``tuned_gsm8k`` are base and
tuned). Two sets that name different models never become one arm by their labels, and where the model fits two arms and
the label none, a set stays an arm of its own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from opsd_eval.records import RunRecord

CHECKPOINT_NAME = re.compile(r"^(?:(?P<arm>.*?)[-_.])?(?:global[-_])?(?:step|checkpoint|ckpt)[-_]?(?P<step>\d{1,9})$")
UNKNOWN = "unknown"
ALL = "all"
Place = tuple[str, str]  # (world, split)
_ENDS = "/_.-:| "
_WORDS = re.compile(r"[^/_.:|\-\s]+|[/_.:|\-\s]+")
_MODEL_ARGS = re.compile(r"(?:^|,)\s*(?P<key>peft|delta|revision|subfolder|lora_local_path)=(?P<value>[^,]*)")


@dataclass(frozen=True)
class LooseSet:
    """A sample set as it was given: folder, run record, benchmark and split (``None``: unknown), its questions' hashes.

    ``given`` is the arm that the user named.
    """

    path: Path
    run: RunRecord
    benchmark: str | None
    split: str | None
    questions: frozenset[str] = frozenset()
    given: str | None = None


@dataclass(frozen=True)
class Named:
    """What :func:`name_sets` found out about one set."""

    world: str
    split: str
    arm: str
    step: int | None


@dataclass
class _Arm:
    """An arm so far: its names, the model of its sets, and the (place, step) it has."""

    name: str
    label: str
    model: Hashable | None
    has: set[tuple[Place, int | None]] = field(default_factory=set)


def name_sets(sets: Sequence[LooseSet]) -> list[Named]:
    """World, split, arm and step of every set; the first is the baseline, whose step is not asked for.

    Benchmarks that differ only in their split (``testbed.slips.id``, ``testbed.slips.longer``) make one world with
    these splits; other benchmarks become the splits of a world ``benchmarks``, so that gaps between them exist.
    """
    names = [_name_and_step(one) for one in sets]
    places = _places(sets, [name for name, _ in names])
    labels = _labels(sets, names, places)
    arms: list[_Arm] = []
    found = []
    for at, one in enumerate(sets):
        model, (_, step) = model_of(one.run), names[at]
        who = (labels[at], model)
        if not at or one.given == arms[0].name:
            step = None
        elif one.given is None and step == names[0][1] is not None and _is_baseline(arms[0], who, places[at]):
            step, one = None, replace(one, given=arms[0].name)
        arm = _find_arm(arms, one.given, who, (places[at], step))
        arm.has.add((places[at], step))
        found.append(Named(*places[at], arm.name, step))
    return found


def model_of(run: RunRecord) -> Hashable | None:
    """What identifies a run's model whatever it was asked: weights, adapter, revision; a checkpoint's is its run's.

    ``None`` where the record does not name one.
    """
    path = run.model.get("path")
    if not isinstance(path, str) or not path:
        return None
    args = run.model.get("args")
    if isinstance(args, Mapping):
        args = ",".join(f"{key}={value}" for key, value in args.items())
    parts = tuple((m["key"], m["value"]) for m in _MODEL_ARGS.finditer(args if isinstance(args, str) else ""))
    if CHECKPOINT_NAME.match(Path(path).name):
        return str(Path(path).parent), parts
    return run.model.get("sha256") or path, run.model.get("adapter"), run.model.get("revision"), parts


# --- places -----------------------------------------------------------------------------------------------


def _places(sets: Sequence[LooseSet], names: Sequence[str]) -> list[tuple[str, str]]:
    """(world, split) of every set."""
    stems = _stems(sets, names)
    splits = [one.split or ALL for one in sets]
    if len({*stems}) == 1:
        return list(zip(stems, splits, strict=True))
    return [
        ("benchmarks", stem if split == ALL else f"{stem}.{split}") for stem, split in zip(stems, splits, strict=True)
    ]


def _stems(sets: Sequence[LooseSet], names: Sequence[str]) -> list[str]:
    """The benchmark of every set without its split; unknown ones are told apart by their questions."""
    groups: list[list[int]] = []
    for at, one in enumerate(sets):
        if one.benchmark is None:
            mine = next((g for g in groups if _alike(sets[g[0]].questions, one.questions)), None)
            if mine is None:
                groups.append([at])
            else:
                mine.append(at)
    called = [shared_words([names[at] for at in group]) for group in groups]
    if len(groups) == 1:
        called = [UNKNOWN]
    elif "" in called or len({*called}) < len(called):
        called = [f"problems {number}" for number in range(1, len(groups) + 1)]
    unknown = {at: name for group, name in zip(groups, called, strict=True) for at in group}
    return [
        unknown[at] if one.benchmark is None else one.benchmark.removesuffix(f".{one.split}" if one.split else "")
        for at, one in enumerate(sets)
    ]


def _alike(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two sets share most of the questions of the smaller one."""
    return 2 * len(a & b) > min(len(a), len(b))


# --- names ------------------------------------------------------------------------------------------------


def _name_and_step(one: LooseSet) -> tuple[str, int | None]:
    """A set's name without its step, and the step: from the name, the record, or the model's folder."""
    name = one.run.name
    if match := CHECKPOINT_NAME.match(name):
        return match["arm"] or one.path.resolve().parent.name, int(match["step"])
    step = one.run.model.get("step")
    folder = CHECKPOINT_NAME.match(Path(str(one.run.model.get("path") or "")).name)
    return name, step if type(step) is int else int(folder["step"]) if folder else None


def _labels(
    sets: Sequence[LooseSet], names: Sequence[tuple[str, int | None]], places: Sequence[tuple[str, str]]
) -> list[str]:
    """What tells the sets of one place apart: their names, or where those are the same the differing part of the path.

    With several places, words that all sets of a place share are left out.
    """
    labels = [name for name, _ in names]
    for place in dict.fromkeys(places):
        here = [at for at, p in enumerate(places) if p == place]
        if len({names[at] for at in here}) < len(here):
            parts = _different_words([str(sets[at].path.resolve()) for at in here])
            for at, part in zip(here, parts, strict=True):
                labels[at] = part
        elif len({*places}) > 1:
            texts = list(dict.fromkeys(labels[at] for at in here))
            short = dict(zip(texts, _different_words(texts), strict=True))
            for at in here:
                labels[at] = short[labels[at]]
    return labels


def _ends(texts: Sequence[str]) -> tuple[list[list[str]], int, int]:
    """The texts in words, and how many words they all share in front and behind."""
    split = [_WORDS.findall(text) for text in texts]
    shortest = min(map(len, split))
    front = next((i for i in range(shortest) if len({words[i] for words in split}) > 1), shortest)
    most = shortest - front
    back = next((i for i in range(most) if len({words[-1 - i] for words in split}) > 1), most)
    return split, front, back


def _different_words(texts: Sequence[str]) -> list[str]:
    """The texts without the words that all share in front and behind; as they are where one would be left empty."""
    if len(texts) < 2:
        return list(texts)
    split, front, back = _ends(texts)
    found = ["".join(words[front : len(words) - back]).strip(_ENDS) for words in split]
    return found if all(found) else list(texts)


def shared_words(texts: Sequence[str]) -> str:
    """The words that all texts share in front and behind."""
    split, front, back = _ends(texts)
    words = split[0]
    ends = ["".join(words[:front]).strip(_ENDS), "".join(words[len(words) - back :]).strip(_ENDS)]
    return "_".join(end for end in ends if end)


# --- arms -------------------------------------------------------------------------------------------------


def _is_baseline(baseline: _Arm, who: tuple[str, Hashable | None], place: Place) -> bool:
    """Whether a set is the baseline's on another benchmark, so that its step is none of a series."""
    label, model = who
    same = label == baseline.label if None in (model, baseline.model) else model == baseline.model
    return same and all(taken != place for taken, _ in baseline.has)


def _find_arm(
    arms: list[_Arm], given: str | None, who: tuple[str, Hashable | None], where: tuple[Place, int | None]
) -> _Arm:
    """The arm that a set belongs to; a new one is added where none fits."""
    label, model = who
    free = [arm for arm in arms[:1] if where[1] is None and where not in arm.has]  # a baseline has one checkpoint
    free += [arm for arm in arms[1:] if where not in arm.has]
    if given is not None:
        fits = [arm for arm in free if arm.name == given]
    else:
        same = [arm for arm in free if model is not None and arm.model == model]
        named = [arm for arm in free if arm.label == label and (model is None or arm.model in (None, model))]
        fits = [arm for arm in same if arm in named] or (same if len(same) == 1 else named)
    if fits:
        return fits[0]
    if given is not None and any(arm.name == given for arm in arms):
        raise ValueError(f"arm {given!r} has two sets of {' · '.join(where[0])}: give each its own --arm")
    arms.append(_Arm(_unique(given or label, {arm.name for arm in arms}), label, model))
    return arms[-1]


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"
