"""What ``opsd-eval compare`` says about generalization: gaps along a declared axis, exposure, and other problems."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.records import Problem, problem_from_row, read_jsonl, read_problems

if TYPE_CHECKING:
    from opsd_eval.stats import Difference

Shared = Callable[[Path, Path], list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that ask for gaps."""
    parser.add_argument("--axis", metavar="NAME=VALUE,…", help="values of a declared axis that training saw, such as "
                        "length=3,4: adds the generalization gap to every other value")  # fmt: skip
    parser.add_argument("--train", type=Path, metavar="FILE", help="problems trained on (JSON Lines with question, or "
                        "a sample set): adds the gap between those found there and the held-out ones")  # fmt: skip
    parser.add_argument("--against", nargs="+", type=Path, metavar="SET", help="the same models' sets "
                        "over other problems (out of distribution, off task, twins): adds the gap")  # fmt: skip


def gap_rows(sets: Sequence[Path], pairs: Iterable[tuple[Path, Path]], args: Any, shared: Shared) -> list[dict]:
    """Rows of every gap asked for, of the change within each pair; ``shared`` names the metrics both of a pair have."""
    if args.against and len(args.against) != len(sets):
        raise ValueError(f"--against takes as many sets as are compared, in the same order: {len(sets)}, got "
                         f"{len(args.against)}")  # fmt: skip
    train = read_training(args.train) if args.train else None
    others = dict(zip(sets, args.against or (), strict=False))
    rows = []
    for a, b in pairs:
        head = {"contrast": f"gap of {b} - {a}"}
        metrics = shared(a, b) if args.axis or train is not None or others else []
        if args.axis:
            rows += [head | row for row in _by_axis(a, b, args.axis, metrics, args.level)]
        if train is not None:
            from opsd_eval.metrics.generalization import gaps_by_exposure

            table = gaps_by_exposure(a, b, train=train, metrics=metrics, level=args.level)
            rows += [head | row for row in table.to_dict("records")]
        if others:
            both = [name for name in metrics if name in shared(others[a], others[b])]
            rows += [head | _against((a, b), (others[a], others[b]), name, args.level) for name in both]
    return rows


def _by_axis(a: Path, b: Path, axis: str, metrics: Sequence[str], level: float) -> list[dict[str, Any]]:
    from opsd_eval.metrics.generalization import gaps_by_axis

    name, _, values = axis.partition("=")
    if not name or not values:
        raise ValueError(f"--axis {axis!r} should read NAME=VALUE,VALUE, such as length=3,4")
    return gaps_by_axis(a, b, axis=name, trained=values.split(","), metrics=metrics, level=level).to_dict("records")


def _against(pair: tuple[Path, Path], other: tuple[Path, Path], metric: str, level: float) -> dict[str, Any]:
    """One gap between two pairs of sets: paired where the other problems are twins of these."""
    from opsd_eval.metrics.generalization import generalization_gap, twin_gap

    mine, theirs = read_problems(pair[0]), read_problems(other[0])
    twins = any(str(problem.metadata.get("twin_of")) in mine for problem in theirs.values())
    found: Difference = (twin_gap if twins else generalization_gap)(pair, other, metric=metric, level=level)
    return {
        "metric": metric, "axis": "twins" if twins else "benchmark", "trained": _names(mine.values()),
        "value": _names(theirs.values()), "gap": found.value, "low": found.low, "high": found.high,
        "p_value": found.p_value, "mde": found.mde, "n_problems": found.n_problems, "n_dropped": found.n_dropped,
        "method": found.method,
    }  # fmt: skip


def _names(problems: Iterable[Problem]) -> str:
    return ",".join(sorted({problem.benchmark for problem in problems}))


def read_training(path: Path) -> list[Problem]:
    """The problems of a sample set's folder or of a JSON Lines file with a ``question`` (and perhaps an id) a line."""
    if path.is_dir():
        return list(read_problems(path).values())
    rows = [
        {"problem_id": f"{path.stem}/{at}", **{key: row[key] for key in ("problem_id", "question") if key in row}}
        for at, row in enumerate(read_jsonl(path), start=1)
    ]
    return [problem_from_row(row, f"{path}:{at}") for at, row in enumerate(rows, start=1)]
