"""Completions side by side: a subset chosen by a hash of the problem's id, shown as inert text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from opsd_eval.records import OUTCOMES, Sample, read_problems, write_text
from opsd_eval.report_data import ReportData
from opsd_eval.sample_index import SampleIndex, read_block
from opsd_eval.tables import SetInfo
from opsd_eval.visible import visible

PROBLEMS_A_PLACE = 16
DRAWS_SHOWN = 2
MAX_CHARS = 3000
BUDGET_CHARS = 3_000_000
UNGRADED = "ungraded"


@dataclass(frozen=True)
class Shown:
    """One problem of the side-by-side view: every draw of every arm, under the sample set it came from."""

    place: tuple[str, str]
    problem: Any
    arms: Mapping[str, Sequence[Sample]]


def choose(data: ReportData) -> list[Shown]:
    """A few problems of every (world, split), by a hash of their ids and so blind to how they came out.

    One run speaks for each arm: the first base seed, then the first training seed, at the reported checkpoint.
    """
    speakers: dict[tuple[str, str], dict[str, SetInfo]] = {}
    for info in data.reported:
        speakers.setdefault((info.world, info.split), {}).setdefault(info.arm, info)
    per_place = problems_a_place(len(speakers), len(data.arms))
    found = []
    for place, by_arm in speakers.items():
        first = next(iter(by_arm.values()))
        problems = read_problems(first.path)
        chosen = sorted(problems, key=lambda p: hashlib.sha256(p.encode("utf-8", "surrogatepass")).digest())[:per_place]
        texts = {arm: _draws(info.path, set(chosen)) for arm, info in by_arm.items()}
        for problem_id in chosen:
            arms = {arm: texts[arm].get(problem_id, ()) for arm in data.arms if arm in texts}
            found.append(Shown(place, problems[problem_id], arms))
    return found


def problems_a_place(n_places: int, n_arms: int) -> int:
    """Problems shown for each world and split, so that the page stays within its budget of characters."""
    most = BUDGET_CHARS // max(1, n_places * n_arms * DRAWS_SHOWN * MAX_CHARS)
    return max(1, min(PROBLEMS_A_PLACE, most))


def _draws(folder: Path, wanted: set[str]) -> dict[str, Sequence[Sample]]:
    index = SampleIndex(folder)
    ids = list(index.problems)
    numbers = [number for number, problem_id in enumerate(ids) if problem_id in wanted]
    return {ids[number]: draws for number, draws in read_block(index.task(numbers))}


def outcome_of(sample: Sample) -> str:
    """The sample's outcome, or ``ungraded`` for anything that is not one of the six."""
    return sample.outcome if sample.outcome in OUTCOMES else UNGRADED


def shorten(text: str | None) -> str:
    """At most ``MAX_CHARS`` characters: two thirds from the front, one third from the end."""
    if text is None or len(text) <= MAX_CHARS:
        return visible(text)
    head, tail = MAX_CHARS * 2 // 3, MAX_CHARS // 3
    note = f"[… {len(text) - head - tail:,} characters left out; follow the link for all …]"
    return f"{visible(text[:head])}\n{note}\n{visible(text[-tail:])}"


def full_text(shown: Shown) -> str:
    """Every draw of every arm in full, as plain text (a byte-order mark tells browsers it is UTF-8)."""
    world, split = shown.place
    lines = [f"\ufeff{world} · {split} · {visible(shown.problem.problem_id)}", "", visible(shown.problem.question), ""]
    lines += [f"answer: {visible(str(shown.problem.answer))}", ""]
    for arm, draws in shown.arms.items():
        for sample in draws:
            lines.append(f"===== {visible(arm)} · draw {sample.draw} · {outcome_of(sample)} =====")
            lines += [visible(sample.text), ""]
    return "\n".join(lines)


def write_full_texts(chosen: Sequence[Shown], out: Path) -> list[str]:
    """Write each chosen problem's full text under ``completions/``; returns the links."""
    links = []
    for number, shown in enumerate(chosen):
        links.append(f"completions/{number:04d}.txt")
        write_text(out / links[-1], full_text(shown))
    return links


def views(chosen: Sequence[Shown], links: Sequence[str], arm_ids: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the page's template needs of each problem."""
    places = {place: f"p{at}" for at, place in enumerate(dict.fromkeys(s.place for s in chosen))}
    for shown, link in zip(chosen, links, strict=True):
        rates = {sum(marks) / len(marks) for marks in map(_marks, shown.arms.values()) if marks}
        yield {
            "id": visible(shown.problem.problem_id), "place": places[shown.place], "link": link,
            "answer": "unknown" if shown.problem.answer is None else visible(shown.problem.answer),
            "question": shorten(shown.problem.question), "disagree": int(len(rates) > 1),
            "arms": [_arm_view(arm, arm_ids[arm], draws) for arm, draws in shown.arms.items()],
        }  # fmt: skip


def _marks(draws: Sequence[Sample]) -> list[bool]:
    return [s.correct for s in draws if s.correct is not None]


def _arm_view(arm: str, arm_id: str, draws: Sequence[Sample]) -> dict[str, Any]:
    return {
        "name": arm, "id": arm_id, "dots": [{"draw": s.draw, "outcome": outcome_of(s)} for s in draws],
        "completions": [
            {"draw": s.draw, "outcome": outcome_of(s), "text": shorten(s.text), "size": _size(s)}
            for s in draws[:DRAWS_SHOWN]
        ],
    }  # fmt: skip


def _size(sample: Sample) -> str:
    return f"{len(sample.text or ''):,} characters" if sample.n_tokens is None else f"{sample.n_tokens:,} tokens"


def relative_link(target: Path, start: Path) -> str:
    """A relative link from the folder of the page, quoted so that no path can be read as a URL of another kind."""
    return quote(os.path.relpath(target.resolve(), start.resolve()))
