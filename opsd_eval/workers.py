"""Run a function over tasks in worker processes: ordered results, bounded queue, nothing pickled.

A worker is ``python -m opsd_eval.workers module:function``: JSON tasks in, JSON results out, one a line. Unlike
``multiprocessing`` it does not import the caller's script again, so a plain script or a notebook can call it, and a
worker whose parent is killed sees its input close and ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class WorkerLost(RuntimeError):
    """A worker process ended before its work: killed, out of memory, or an error that it printed itself."""


def default_processes() -> int:
    """Processes to use unless told otherwise: the cores this process may use, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0))))


def run_tasks(target: str, tasks: Iterable[dict[str, Any]], *, processes: int) -> Iterator[Any]:
    """Yield ``function(task)`` for each task, in order; ``target`` is ``"module:function"``.

    With one process the function runs here. At most two tasks a process are in flight, so a lazy ``tasks`` stays
    lazy. A ``ValueError`` in a worker is raised here with its message; any other failure, the
    end of its process included, is a :class:`WorkerLost`.
    """
    if processes <= 1:
        yield from map(resolve(target), tasks)
        return
    workers = [_Worker(target) for _ in range(processes)]
    idle = deque(workers)
    pool = ThreadPoolExecutor(max_workers=processes)

    def call(task: dict[str, Any]) -> Any:
        worker = idle.popleft()
        try:
            return worker.call(task)
        finally:
            idle.append(worker)

    waiting: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(call, task))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for worker in workers:
            worker.close()
        pool.shutdown(wait=True, cancel_futures=True)


def resolve(target: str) -> Callable[[dict[str, Any]], Any]:
    """The function that ``"module:function"`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def python_environment() -> dict[str, str]:
    """The environment for a Python child that must import what this process can."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


class _Worker:
    """One child process and its pipes."""

    def __init__(self, target: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "opsd_eval.workers", target],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=python_environment(),
        )

    def call(self, task: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (BrokenPipeError, ValueError) as error:
            raise WorkerLost(f"worker process {self.process.pid} is gone: {error}") from error
        if not line.endswith(b"\n"):
            code = self.process.wait()
            how = f"exit code {code}" if code >= 0 else f"signal {-code}; out of memory?"
            raise WorkerLost(f"worker process {self.process.pid} ended ({how})")
        answer = json.loads(line)
        if "value_error" in answer:
            raise ValueError(answer["value_error"])
        return answer["result"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


def _serve(target: str) -> None:
    """Answer tasks from standard input until it closes; prints of the function go to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function = resolve(target)
    for line in sys.stdin.buffer:
        try:
            answer: dict[str, Any] = {"result": function(json.loads(line))}
        except ValueError as error:
            answer = {"value_error": str(error)}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # the caller is gone


if __name__ == "__main__":
    _serve(sys.argv[1])
