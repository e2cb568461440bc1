"""What the benchmarks share: two sides timed in turns, rows of one form, the machine's rate of bare products."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """Wall-clock seconds and processor seconds of this process; other work on the machine moves the second less."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Seconds:
    """How long one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(
    sides: Mapping[str, Callable[[], Any]], *, rounds: int, label: str = "",
    measure: Callable[[Callable[[], Any]], Any] = timed,
) -> dict[str, list[Any]]:
    """Every side once a round, the order reversed each round; progress on standard error.

    ``measure`` takes a side and returns its ``Seconds``, or processor seconds as a number.
    """
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            found[name].append(measure(sides[name]))
        shown = "  ".join(f"{name} {getattr(found[name][-1], 'cpu', found[name][-1]):.3g} s" for name in sides)
        say(f"{label} round {number + 1} of {rounds}: {shown}")
    return found


def say(text: str) -> None:
    """Progress, on standard error: standard output is for the rows."""
    print(text.strip(), file=sys.stderr, flush=True)


def row(
    name: str, ours: Sequence[float], other: Sequence[float], unit: str, *, floor: float | None, shape: str,
    better: str = "lower", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """One result: ratio of the medians, and as ``spread`` the lowest and highest ratio of one round.

    ``floor``: what the mathematics alone would take, in ``unit``; None where there is no such number.
    """
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    mine, theirs = statistics.median(ours), statistics.median(other)
    return {"name": name, "ratio": mine / theirs, "ours": mine, "other": theirs, "unit": unit, "better": better,
            "spread": [min(ratios), max(ratios)], "floor": floor, "shape": shape, **more}  # fmt: skip


def seconds_row(
    name: str, ours: Sequence[Seconds], other: Sequence[Seconds], *, floor: float | None, shape: str, **more: Any
) -> dict[str, Any]:
    """A row of processor seconds of one-thread sides; ``wall_ratio`` is the same ratio by the clock on the wall."""
    wall = statistics.median(s.wall for s in ours) / max(1e-9, statistics.median(s.wall for s in other))
    return row(name, [s.cpu for s in ours], [s.cpu for s in other], "processor seconds", floor=floor, shape=shape,
               wall_ratio=wall, **more)  # fmt: skip


def flop_rate() -> float:
    """FLOP a processor second of a large float32 matrix product on one thread, measured now (best of five)."""
    import torch

    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / min(timed(lambda: a @ b).cpu for _ in range(5))


def resident(key: str) -> int:
    """Bytes of resident memory as the kernel counts them: now (``VmRSS``) or at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def forget_peak() -> None:
    """Let ``VmHWM`` count from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def number(value: Any) -> str:
    """A few digits of a number, bytes in MB."""
    if value is None:
        return "–"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.0f} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def rows_table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of a Markdown table."""
    lines = ["| row | ratio | lowest – highest | ours | other | floor | unit | shape |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for one in rows:
        spread = "–" if one["spread"] is None else f"{number(one['spread'][0])} – {number(one['spread'][1])}"
        cells = [f"`{one['name']}`", f"**{number(one['ratio'])}**", spread, number(one["ours"]), number(one["other"]),
                 number(one["floor"]), one["unit"], one["shape"]]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def between_marks(text: str, name: str, body: str) -> str:
    """A page with ``body`` between its marks ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n{body}\n{end}{rest.split(end)[1]}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The power p of the least-squares fit cost = a·size^p, on logarithms."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
