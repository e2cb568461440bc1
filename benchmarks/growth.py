"""How costs grow: seconds against one size at a time, and the power of the least-squares fit on logarithms.

    python -m benchmarks.growth                     everything
    python -m benchmarks.growth --quick             few, small sizes, to see that it runs
    python -m benchmarks.growth --only loss         one group (may be repeated)

Processor seconds of one thread, the least of several rounds, the sizes in turns. ``ours`` is the fitted power,
``other`` the power that the mathematics has (1; 0 for memory that should not grow), ``points`` the measurements. A
fixed part in every cost pulls a power below the other; ``last`` is the power between the two largest sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import exponent, say, timed
from benchmarks.evaluation_layer import write_log

ROOT = Path(__file__).parent.parent


def power_row(name: str, costs: Mapping[int, float], *, shape: str, unit: str = "seconds", expected: float = 1.0):
    """A row for one curve."""
    sizes, values = list(costs), list(costs.values())
    found = exponent(sizes, values)
    return {
        "name": f"growth_{name}", "ratio": found / expected if expected else None, "ours": found, "other": expected,
        "unit": f"power of {unit}", "better": "lower", "spread": None, "floor": expected, "shape": shape,
        "last": exponent(sizes[-2:], values[-2:]), "points": {str(size): value for size, value in costs.items()},
    }  # fmt: skip


def curve(work: Callable[[int], Callable[[], Any]], sizes: Sequence[int], *, rounds: int, label: str) -> dict:
    """Least processor seconds at each size; ``work(size)`` prepares and returns what is timed."""
    jobs = {size: work(size) for size in sizes}
    for job in jobs.values():
        job()
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, job in jobs.items():
            found[size].append(timed(job).cpu)
    best = {size: min(values) for size, values in found.items()}
    say(f"{label}: " + "  ".join(f"{size} {seconds:.3g} s" for size, seconds in best.items()))
    return best


def loss_work(t: int, v: int, d: int) -> Callable[[], Any]:
    """Purified loss, forward and backward, on random states."""
    import torch

    from opsd_train.head import Head
    from opsd_train.loss import Method, chunked_loss

    torch.manual_seed(0)
    weight = torch.randn(v, d).mul_(d**-0.5)
    hidden = {role: torch.randn(t, d) for role in ("student", "teacher", "reference", "base")}

    def work() -> None:
        states = {**hidden, "student": hidden["student"].clone().requires_grad_()}
        chunked_loss(states, Head(weight), method=Method("purified")).loss.backward()

    return work


def loss_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The loss in positions, vocabulary and width; its memory in positions."""
    t, v, d = ((16, 32, 64), (512, 1024, 2048), (32, 64)) if quick else (
        (64, 256, 1024), (8192, 32_768, 131_072), (128, 512, 2048))  # fmt: skip
    small, deep = ((16, 1024, 64), (2048, 64)) if quick else ((32, 8192, 128), (151_936, 64))
    return [
        power_row("loss_in_T", curve(lambda n: loss_work(n, small[1], small[2]), t, rounds=rounds, label="loss in T"),
                  shape=f"purified, V={small[1]} D={small[2]}"),
        power_row("loss_in_V", curve(lambda n: loss_work(small[0], n, small[2]), v, rounds=rounds, label="loss in V"),
                  shape=f"purified, T={small[0]} D={small[2]}"),
        power_row("loss_in_D", curve(lambda n: loss_work(small[0], small[1], n), d, rounds=rounds, label="loss in D"),
                  shape=f"purified, T={small[0]} V={small[1]}"),
        power_row("loss_memory_in_T", {n: loss_peak(n, *deep) for n in t}, unit="peak bytes", expected=0.0,
                  shape=f"purified, V={deep[0]} D={deep[1]}, peak over weights and states, one process each"),
    ]  # fmt: skip


def loss_peak(t: int, v: int, d: int) -> float:
    """Peak resident bytes over weights and states, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loss", "--child", "ours", "--target", "purified", "--shape"]
    done = subprocess.run([*command, str(t), str(v), str(d)], check=True, text=True, cwd=ROOT, stdout=subprocess.PIPE)
    return float(json.loads(done.stdout.splitlines()[-1])["bytes"])


def step_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """A whole purified step on a testbed base, in rollouts and in the length of completions."""
    import torch

    from benchmarks.step import CASES, case_config, fixed_length, session_of
    from opsd_train.trainer import train_step

    torch.set_num_threads(1)

    def work(folder: Path, batch: int, new: int) -> Callable[[], Any]:
        values = {**CASES["testbed"], "batch": batch, "new": new}
        session = session_of(case_config("testbed", "purified", values), folder / f"{batch}-{new}")
        return lambda: train_step(session, 0)

    batches, lengths = ((4, 8), (16, 32)) if quick else ((16, 32, 64), (32, 64, 128, 192))
    with tempfile.TemporaryDirectory() as name, fixed_length():
        folder = Path(name)
        in_batch = curve(lambda n: work(folder / "batch", n, 32), batches, rounds=rounds, label="step in batch")
        in_length = curve(lambda n: work(folder / "length", 16, n), lengths, rounds=rounds, label="step in tokens")
    return [
        power_row("step_in_batch", in_batch, shape="purified step, testbed base, 32 tokens a completion, 8 a pass"),
        power_row("step_in_completion_tokens", in_length, shape="purified step, testbed base, 16 rollouts"),
    ]


def evaluation_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Grading and measuring, in draws a problem and in problems."""
    from opsd_eval.grading import grade_set
    from opsd_eval.ingest import ingest
    from opsd_eval.measure import measure_set

    def work(folder: str, problems: int, draws: int) -> Callable[[], Any]:
        place = Path(folder) / f"{problems}x{draws}"
        write_log(place / "log", problems=problems, draws=draws, chars=500)
        ingest(place / "log", out=place / "set")

        def both() -> None:
            grade_set(place / "set", force=True, processes=1)
            measure_set(place / "set", force=True, processes=1)

        return both

    draws, problems = ((2, 4), (10, 20)) if quick else ((4, 8, 16, 32), (50, 100, 200, 400))
    with tempfile.TemporaryDirectory() as folder:
        in_draws = curve(lambda n: work(folder, 10 if quick else 20, n), draws, rounds=rounds, label="measuring in K")
    with tempfile.TemporaryDirectory() as folder:
        in_problems = curve(lambda n: work(folder, n, 4), problems, rounds=rounds, label="measuring in problems")
    return [
        power_row("evaluation_in_draws", in_draws, shape="20 problems, grading and all quick metrics, 500 characters"),
        power_row("evaluation_in_problems", in_problems, shape="4 draws, grading, all quick metrics, 500 characters"),
    ]


def report_rows(*, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The report, in runs."""
    from opsd_eval.ingest import ingest
    from opsd_eval.measure import measure_set
    from opsd_eval.report import report_sets

    runs, problems = ((2, 3), 8) if quick else ((2, 4, 8), 100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(runs[-1]):
            write_log(folder / f"log{number}", problems=problems, draws=4, chars=400, seed=number)
            ingest(folder / f"log{number}", out=folder / f"set{number}")
        from opsd_eval.grading import grade_set

        sets = [folder / f"set{number}" for number in range(runs[-1])]
        for path in sets:
            grade_set(path, processes=1)
            measure_set(path, processes=1)
        found = curve(lambda n: lambda: report_sets(sets[:n], folder / f"report{n}"), runs, rounds=rounds,
                      label="report in runs")  # fmt: skip
    return [power_row("report_in_runs", found, shape=f"{problems} problems × 4 draws a run, figures and page included")]


GROUPS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "loss": loss_rows, "step": step_rows, "evaluation": evaluation_rows, "report": report_rows,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few, small sizes, one round")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each size (default 2)")
    parser.add_argument("--only", choices=tuple(GROUPS), action="append", help="run this group (may be repeated)")
    args = parser.parse_args()
    rounds = 1 if args.quick else args.rounds
    rows = [found for name in args.only or GROUPS for found in GROUPS[name](quick=args.quick, rounds=rounds)]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
