"""A small process pool for job graphs: one-thread workers that import torch once and take job after job.

A job is a function with its arguments, the names of the jobs it needs, and a relative cost for the progress bar.
What a job prints goes to its own log file. Workers end when the parent does, even if it was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

GRACE_SECONDS = 20.0
POLL_SECONDS = 0.5
QUIET_SECONDS = 15.0  # between lines of progress when nobody watches a terminal


@dataclass(frozen=True)
class Job:
    """One piece of work. ``function`` must be importable by a fresh process (defined at the top of a module).

    ``progress``, called in the parent, says how much of a running job is done, from 0 to 1.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    weight: float = 1.0
    progress: Callable[[], float] | None = None


class JobFailed(RuntimeError):
    """A job raised or its process died; the message names the job and its log."""


class _Worker:
    """One child process and the job it has."""

    def __init__(self, context: Any, warm_up: Callable[[], None] | None) -> None:
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, warm_up), name="job worker")
        self.process.start()
        child.close()
        self.job: Job | None = None

    def take(self, job: Job, log: Path) -> None:
        try:
            self.connection.send((job.function, dict(job.arguments), str(log)))
        except BrokenPipeError as error:
            raise JobFailed(f"{job.name}: its worker process was gone before it began") from error
        self.job = job


def usable_cores() -> int:
    """Cores this process may use (fewer than the machine has, where an affinity mask says so)."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def run_jobs(
    jobs: Iterable[Job],
    *,
    logs: Path,
    n_workers: int | None = None,
    warm_up: Callable[[], None] | None = None,
    title: str = "jobs",
) -> None:
    """Run all jobs, each after those it needs, earlier ones in the list first; at most ``n_workers`` at once.

    A failing job stops the rest cleanly and raises :class:`JobFailed`; what is on disk stays, so running the same
    again goes on from there. Needs that are not among the jobs count as done.
    """
    waiting = {job.name: job for job in jobs}
    if not waiting:
        return
    _check(waiting.values())
    logs.mkdir(parents=True, exist_ok=True)
    n_workers = min(n_workers or usable_cores(), len(waiting))
    os.environ.setdefault("TQDM_MININTERVAL", "5")
    context = multiprocessing.get_context("spawn")
    workers = [_Worker(context, warm_up) for _ in range(n_workers)]
    try:
        with _Progress(list(waiting.values()), title) as progress:
            _drive(waiting, workers, logs, progress)
        for worker in workers:
            with suppress(BrokenPipeError):
                worker.connection.send(None)
        for worker in workers:
            worker.process.join(GRACE_SECONDS)
    finally:
        _stop(workers)


def _check(jobs: Iterable[Job]) -> None:
    """Refuse a graph in which something waits for itself."""
    left = {job.name: set(job.needs) for job in jobs}
    left = {name: needs & set(left) for name, needs in left.items()}
    while left:
        ready = {name for name, needs in left.items() if not needs}
        if not ready:
            raise ValueError(f"jobs wait for each other in a circle: {', '.join(sorted(left))}")
        left = {name: needs - ready for name, needs in left.items() if name not in ready}


def _drive(waiting: dict[str, Job], workers: Sequence[_Worker], logs: Path, progress: _Progress) -> None:
    running: dict[str, Job] = {}
    while waiting or running:
        for worker in workers:
            ready = next((j for j in waiting.values() if not (set(j.needs) & (waiting.keys() | running.keys()))), None)
            if worker.job is None and ready is not None:
                running[ready.name] = waiting.pop(ready.name)
                worker.take(ready, logs / f"{ready.name}.log")
        for worker in _heard(workers):
            job = worker.job
            message = _answer(worker)
            if job is None or message is not None:
                name = job.name if job else "a worker starting up"
                log = logs / f"{name}.log"
                raise JobFailed(f"{name} failed: {message or 'its process ended'}\n  log: {log}\n  "
                                "What is done is kept; mend the cause and run the same command again.")  # fmt: skip
            progress.done(running.pop(job.name))
            worker.job = None
        progress.show(list(running.values()))


def _heard(workers: Sequence[_Worker]) -> list[_Worker]:
    """Workers with a message, or whose process has ended."""
    handles: dict[Any, _Worker] = {w.connection: w for w in workers} | {w.process.sentinel: w for w in workers}
    return list(dict.fromkeys(handles[handle] for handle in wait(list(handles), POLL_SECONDS)))


def _answer(worker: _Worker) -> str | None:
    """What the worker says about its job: ``None`` for success, else why not."""
    try:
        if worker.connection.poll():
            return worker.connection.recv()
    except (EOFError, ConnectionResetError):
        pass
    worker.process.join(1)
    code = worker.process.exitcode
    if code is not None and code < 0:
        return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"its process ended with code {code}"


def _stop(workers: Sequence[_Worker]) -> None:
    """End every worker: ask (SIGTERM, on which training saves its state), then insist."""
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()


# --- in the worker ----------------------------------------------------------------------------------------


def _serve(connection: Connection, warm_up: Callable[[], None] | None) -> None:
    """Take jobs until told to stop. Ctrl-C is the parent's business."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its default is a system semaphore, which a killed worker would leave behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if warm_up is not None:
        warm_up()
    while (task := connection.recv()) is not None:
        function, arguments, log = task
        connection.send(_perform(function, arguments, log))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _perform(function: Callable[..., Any], arguments: Mapping[str, Any], log: str) -> str | None:
    """Run one job with its output in its log; returns ``None``, or the error in one line."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with Path(log).open("a", encoding="utf-8", buffering=1) as file:
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            function(**arguments)
            return None
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for handle, number in zip(kept, (1, 2), strict=True):
                os.dup2(handle, number)
                os.close(handle)


# --- progress ---------------------------------------------------------------------------------------------


class _Progress:
    """A bar over all jobs weighted by cost, with time left and what is running."""

    def __init__(self, jobs: Sequence[Job], title: str) -> None:
        from tqdm import tqdm

        self.total, self.n_jobs, self.n_done, self.weight_done = sum(j.weight for j in jobs), len(jobs), 0, 0.0
        layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left{postfix}"
        self.bar = tqdm(total=self.total, desc=title, bar_format=layout, dynamic_ncols=True)
        self.shown, self.pause = 0.0, 0.0 if sys.stderr.isatty() else QUIET_SECONDS

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def done(self, job: Job) -> None:
        self.n_done += 1
        self.weight_done += job.weight

    def show(self, running: Sequence[Job]) -> None:
        under_way = sum(j.weight * min(1.0, j.progress()) for j in running if j.progress is not None)
        reached = min(self.total, self.weight_done + under_way)
        names = ", ".join(j.name for j in running)
        self.bar.set_postfix_str(f"{self.n_done}/{self.n_jobs} jobs{'; ' if names else ''}{names}", refresh=False)
        self.bar.n = max(self.bar.n, reached)
        if time.monotonic() - self.shown >= self.pause:
            self.bar.refresh()
            self.shown = time.monotonic()
