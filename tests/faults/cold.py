"""Commands that work through processes of their own, started in full; what is killed is the command, a worker, or all.

The same calls as :class:`tests.faults.warm.Warm`. Changes on disk are seen by looking at the folder again and again,
since no process can count those of the others.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.killing import ROOT, environment, runs

LOOK_SECONDS = 0.005
END_SECONDS = 600
ORPHAN_SECONDS = 60


class Cold:
    """Starts a command in a session of its own and ends it, or a part of it, with a signal.

    ``victims``: what SIGKILL may meet: the ``command`` alone, one ``worker`` alone, or ``all``.
    """

    def __init__(self, seed: int = 0, victims: Sequence[str] = ("command", "worker", "all")) -> None:
        self.rng, self.victims = random.Random(seed), victims

    def start(
        self, module: str, argv: Sequence[object], *, log: Path, watch: Path, die_at: int | None = None
    ) -> int:  # fmt: skip
        """Run ``python -m module argv``; returns its process id. ``die_at`` as in ``Warm.start``."""
        self.log, self.watch, self.die_at, self.hit, self.workers = log, watch, die_at, "", []
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, argv)], cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        return self.process.pid

    def code(self) -> int:
        """Wait for the end; with ``die_at`` send SIGKILL at that change on disk (0: only count them, into ``log``.n)."""
        seen, before = 0, _state(self.watch)

        def changed() -> bool:
            nonlocal seen, before
            now = _state(self.watch)
            seen += sum(now.get(path) != before.get(path) for path in {*now, *before})
            before = now
            return bool(self.die_at) and seen >= (self.die_at or 0)

        if self.die_at is None:
            return self._ended()
        if self._look(changed, END_SECONDS):
            self._hit(signal.SIGKILL)
        if not self.die_at:
            Path(f"{self.log}.n").write_text(str(seen))
        return self._ended()

    def kill_after(self, pid: int, seconds: float, sent: signal.Signals) -> int:
        """Send a signal after some seconds unless the command has ended; its exit code."""
        end = time.monotonic() + seconds
        if self._look(lambda: time.monotonic() >= end, seconds + 1):
            self._hit(sent)
        return self._ended()

    def _look(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition while the command runs; whether it came first."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def _hit(self, sent: signal.Signals) -> None:
        """SIGKILL meets the command, one worker or all of them; another signal meets the command."""
        self.workers = _workers(self.process.pid)
        self.hit = self.rng.choice([kind for kind in self.victims if kind != "worker" or self.workers])
        if sent != signal.SIGKILL or self.hit == "command":
            self.process.send_signal(sent)
            return
        hit = [self.rng.choice(self.workers)] if self.hit == "worker" else [self.process.pid, *self.workers]
        for pid in hit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)

    def _ended(self) -> int:
        """The exit code; -9 for a command that ended because its worker was killed, and said so.

        Workers must not outlive the command.
        """
        code = self.process.wait(END_SECONDS)
        end = time.monotonic() + ORPHAN_SECONDS
        while any(map(runs, self.workers)):
            assert time.monotonic() < end, f"workers {self.workers} still run after their command was killed"
            time.sleep(0.05)
        said = self.log.read_text(errors="replace")
        return -signal.SIGKILL if code == 1 and self.hit == "worker" and "SIGKILL" in said else code


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    found: dict[str, tuple[int, int]] = {}
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        found[entry.path] = status.st_size, status.st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def _workers(pid: int) -> list[int]:
    """The Python processes that a command started for its work (not the one that tracks their resources)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        named = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child, words in named.items() if b"spawn_main" in words or b"opsd_train.cli" in words]
