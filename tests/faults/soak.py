"""``python -m tests.faults.soak``: train and evaluate again and again; memory and open files must not grow.

First in one process (train, sample, grade, measure, compare, report, each cycle in a new folder), then as commands, after
which no process, no temporary file and no shared memory may be left. Prints one line of figures a part.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.killing import run

TRAINED = ("--optim.steps", 2, "--optim.batch_size", 4, "--optim.micro_batch_size", 4, "--data.limit", 16,
           "--rollout.max_new_tokens", 24, "--run.diagnostics_every", 1, "--run.diagnostics_tokens", 64)  # fmt: skip


def verbs(folder: Path) -> list[tuple[str, list[object]]]:
    """One cycle: two models, from training to the report that compares them."""
    last = folder / "run" / "checkpoints" / "step-000002"
    sampled = ["testbed.hunch_r10.id", "--n", 2, "--limit", 6, "--max-new-tokens", 24, "--out"]
    return [
        ("opsd_train.cli", ["run", "testbed", *TRAINED, "--out", folder / "run"]),
        ("opsd_eval.cli", ["sample", last, *sampled, folder / "a"]),
        ("opsd_eval.cli", ["sample", last, *sampled, folder / "b", "--seed", 1]),
        ("opsd_eval.cli", ["compare", folder / "a", folder / "b"]),
        ("opsd_eval.cli", ["report", folder / "a", folder / "b", "--out", folder / "report"]),
    ]  # fmt: skip


def resident() -> float:
    """MiB that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def held() -> float:
    """MiB that the C library has handed out (NaN where it is not glibc): a leak moves them, fragmentation does not."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return math.nan
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return (found.uordblks + found.hblkhd) / 2**20


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def in_one_process(cycles: int) -> dict[str, float]:
    """MiB and open files after each cycle; growth is the median of the last third less that of the third before.

    The first ten cycles or so fill caches and arenas once (some 10 MiB): below 30 cycles they count as growth.
    """
    import importlib
    import threading

    mib, heap, files, threads = [], [], [], []
    for number in range(cycles):
        with tempfile.TemporaryDirectory(prefix="opsd-soak-") as folder:
            for module, argv in verbs(Path(folder)):
                sys.argv = [module, *map(str, argv)]
                code = importlib.import_module(module).main([*map(str, argv)])
                assert code == 0, f"cycle {number}: {module} {argv}: exit {code}"
        mib.append(resident())
        heap.append(held())
        files.append(open_files())
        threads.append(threading.active_count())
    third = max(1, cycles // 3)

    def growth(values: list[float]) -> float:
        return (statistics.median(values[-third:]) - statistics.median(values[-2 * third : -third])) / third

    return {
        "cycles": cycles, "mib_after_the_first": mib[0], "mib_at_the_end": mib[-1],
        "mib_a_cycle": growth(mib), "heap_mib_a_cycle": growth(heap),
        "files_grown": max(files[third:]) - files[third - 1], "threads_grown": threads[-1] - threads[0],
    }  # fmt: skip


def as_commands(cycles: int) -> dict[str, float]:
    """The same by commands, all in one temporary folder: what is left behind, and the largest peak of the last cycles."""
    peaks = []
    with tempfile.TemporaryDirectory(prefix="opsd-soak-") as name:
        temporary, shared = Path(name) / "tmp", set(os.listdir("/dev/shm"))
        temporary.mkdir()
        os.environ["TMPDIR"] = str(temporary)
        for _ in range(cycles):
            for module, argv in verbs(Path(name) / "work"):
                run(module, *argv)
            shutil.rmtree(Path(name) / "work")
            peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        left = [path.name for path in temporary.rglob("*")]
        grown = set(os.listdir("/dev/shm")) - shared
    return {"cycles": cycles, "left_files": len(left), "left_shared": len(grown), "left_processes": _children(),
            "peak_mib_first": peaks[0], "peak_mib_last": peaks[-1]}  # fmt: skip


def _children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def quietly(function: Callable[[int], dict[str, float]], cycles: int) -> dict[str, float]:
    """The function's figures, with what its cycles print thrown away."""
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nothing, tempfile.TemporaryFile("w+") as errors:
        os.dup2(nothing.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        try:
            return function(cycles)
        except BaseException:
            errors.seek(0)
            os.write(kept[1], errors.read()[-4000:].encode())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--cycles", type=int, default=150, help="in one process (default 150)")
    parser.add_argument("--commands", type=int, default=10, help="cycles of commands (default 10)")
    parser.add_argument("--most-mib", type=float, default=0.1, help="growth allowed a cycle (default 0.1)")
    args = parser.parse_args(argv)
    one = quietly(in_one_process, args.cycles)
    print(json.dumps(one), flush=True)
    bad = max(one["mib_a_cycle"], one["heap_mib_a_cycle"]) > args.most_mib or one["files_grown"] > 0 or one["threads_grown"] > 0
    if args.commands:
        found = quietly(as_commands, args.commands)
        print(json.dumps(found), flush=True)
        bad |= any(found[name] > 0 for name in ("left_files", "left_shared", "left_processes"))
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
