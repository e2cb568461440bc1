"""Commands as forks of one process that has everything imported, so that a kill meets work and not imports.

A child can be told to kill itself at its n-th change of a folder (a file opened for writing, a rename, a removal, a
new folder): the moments between two writes, which a clock seldom hits.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opsd_eval.startup import bring_in
from tests.faults.killing import ROOT, environment, runs

LATE = -1000  # in place of an exit code: it did not end in time
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
IMPORTED = ("torch", "transformers", "accelerate", "peft", "pandas", "matplotlib.pyplot", "jinja2", "yaml",
            "opsd_train.cli", "opsd_train.trainer", "opsd_eval.cli", "opsd_eval.sampling", "opsd_eval.measure",
            "opsd_eval.report", "opsd_eval.report_page", "opsd_eval.ingest", "opsd_eval.engines.transformers_engine",
            )  # fmt: skip


class Warm:
    """The parent's side: ``start`` a command, ``end`` it or wait for its exit code."""

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm"], cwd=ROOT, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._read()

    def _read(self) -> int:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        if not line:
            raise RuntimeError("the process that forks commands has ended")
        return int(line)

    def _ask(self, row: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(row) + "\n")
        self.server.stdin.flush()
        return self._read()

    def start(
        self, module: str, argv: Sequence[object], *, log: Path, watch: Path, die_at: int | None = None,
        largest_file: int | None = None, variables: Mapping[str, str] | None = None,
    ) -> int:  # fmt: skip
        """Run ``module.main(argv)`` in a fork; returns its process id. Several may run at once.

        ``die_at`` 0 only counts (into ``log``.n). ``largest_file``: no file may grow beyond so many bytes.
        ``variables``: of its environment, beside those of this process.
        """
        row = {"module": module, "argv": [*map(str, argv)], "log": str(log), "watch": str(watch), "die_at": die_at,
               "largest_file": largest_file, "variables": dict(variables or {})}  # fmt: skip
        self.last = self._ask(row)
        return self.last

    def code(self, pid: int | None = None, seconds: float = 900) -> int:
        """The exit code of a command that was started (default: the last one); minus the signal that ended it.

        Waits so many seconds, then kills the command: TimeoutError.
        """
        code = self._ask({"wait": pid or self.last, "seconds": seconds})
        if code == LATE:
            raise TimeoutError(f"the command still ran after {seconds:.0f} s")
        return code

    def kill_after(self, pid: int, seconds: float, sent: signal.Signals) -> int:
        """Send a signal after some seconds unless the command has ended; its exit code."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and runs(pid):
            time.sleep(min(0.01, max(0.0, until - time.monotonic())))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        return self.code(pid)

    def close(self) -> None:
        """End the process."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- in the process that forks ------------------------------------------------------------------------------


def _count_changes(watch: str, die_at: int, log: Path) -> None:
    """Count changes below a folder; at the ``die_at``-th the process kills itself."""
    seen = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if event == "open":
            path, flags = args[0], args[2]
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = (args[0] if args else ""), event in CHANGES
        if changes and isinstance(path, str | os.PathLike) and str(path).startswith(watch):
            seen += 1
            if die_at and seen >= die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if not die_at:
                os.pwrite(counter, f"{seen:09d}".encode(), 0)

    counter = os.open(f"{log}.n", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    sys.addaudithook(hook)


def _child(row: dict) -> int:
    handle = os.open(row["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, fd in ((0, nothing), (1, handle), (2, handle)):
        os.dup2(fd, number)
    sys.argv = [row["module"], *row["argv"]]
    os.environ.update(row["variables"])
    if row["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (row["largest_file"], row["largest_file"]))
    if row["die_at"] is not None:
        _count_changes(row["watch"], row["die_at"], Path(row["log"]))
    try:
        return importlib.import_module(row["module"]).main(row["argv"]) or 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1


def _serve() -> None:
    bring_in(*IMPORTED)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(0, flush=True)
    for line in sys.stdin:
        row = json.loads(line)
        if "wait" in row:
            print(_wait(row["wait"], row["seconds"]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = _child(row)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)


def _wait(pid: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return LATE


if __name__ == "__main__":
    _serve()
