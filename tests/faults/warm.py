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
from collections.abc import Sequence
from pathlib import Path

from tests.faults.killing import ROOT, environment

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

    def start(
        self, module: str, argv: Sequence[object], *, log: Path, watch: Path, die_at: int | None = None,
        largest_file: int | None = None,
    ) -> int:  # fmt: skip
        """Run ``module.main(argv)`` in a fork; returns its process id.

        ``die_at`` 0 only counts (into ``log``.n). ``largest_file``: no file may grow beyond so many bytes.
        """
        row = {"module": module, "argv": [*map(str, argv)], "log": str(log), "watch": str(watch), "die_at": die_at,
               "largest_file": largest_file}  # fmt: skip
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(row) + "\n")
        self.server.stdin.flush()
        return self._read()

    def code(self) -> int:
        """The exit code of the command that was started; minus the signal's number if one ended it."""
        return self._read()

    def kill_after(self, pid: int, seconds: float, sent: signal.Signals) -> int:
        """Send a signal after some seconds unless the command has ended; its exit code."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and _alive(pid):
            time.sleep(min(0.01, max(0.0, until - time.monotonic())))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)
        return self.code()

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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
    for module in IMPORTED:
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(0, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = _child(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
