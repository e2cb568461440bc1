"""Why a run ends before its last step: a signal, or numbers that are not worth going on with."""

from __future__ import annotations

import math
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opsd_train.config import RunConfig


class Interrupted(Exception):
    """The run stopped on a signal after saving its state; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, signum: int, step: int):
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name} after step {step}; state saved, go on with --resume")
        self.exit_code = 128 + signum


class Unhealthy(Exception):
    """The run stopped because of its own numbers, after saving its state."""


class PeerLost(Exception):
    """Another process of the run has ended or cannot be reached; what is saved stays."""


_LOST = re.compile(
    r"connection (?:closed|reset) by peer|broken pipe|timed out waiting|connection refused|no route to host"
    r"|socket timeout|connection was likely closed|remote process exited",
    re.IGNORECASE,
)


@contextmanager
def together(processes: int, out: Path) -> Iterator[None]:
    """Turn what a collective call says when a process of several is gone into :class:`PeerLost`."""
    try:
        yield
    except RuntimeError as error:
        if processes < 2 or not (_LOST.search(str(error)) or type(error).__name__.startswith("Dist")):
            raise
        raise PeerLost(
            f"another of this run's {processes} processes has ended or cannot be reached "
            f"({' '.join(str(error).split())[:200]}). Every whole checkpoint in {out} is kept: see what that process "
            "said, and start all of them again with --resume"
        ) from error


class Signals:
    """Remembers the first SIGTERM or SIGINT; a second one takes its usual effect."""

    def __init__(self) -> None:
        self.received = 0

    def __call__(self, signum: int, _frame: object) -> None:
        """Note the signal and give later ones back their default meaning."""
        self.received = signum
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_DFL if other == signal.SIGTERM else signal.default_int_handler)


@contextmanager
def listening() -> Iterator[Signals]:
    """Catch SIGTERM and SIGINT inside the block and restore the old handlers after it; a no-op off the main thread."""
    heard = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in old:
        signal.signal(number, heard)
    try:
        yield heard
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Health:
    """Counts consecutive bad steps of each watched number.

    A non-finite loss or gradient is never waited for: the trainer stops at once. The other three are off at 0 and
    stop the run after ``patience`` bad steps in a row.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.bad: dict[str, int] = {"loss": 0, "entropy": 0, "loop_rate": 0}

    def check(self, row: Mapping[str, float | None]) -> str | None:
        """The reason to stop after this step's row, as trained or as read back from ``train.jsonl``, or ``None``.

        A number that the step does not have (NaN, null in the log) is not bad.
        """
        config = self.config
        value = {name: math.nan if (found := row[name]) is None else found for name in self.bad}
        limits = {
            "loss": (config.max_loss, value["loss"] > config.max_loss, "above max_loss"),
            "entropy": (config.min_entropy, value["entropy"] < config.min_entropy, "below min_entropy"),
            "loop_rate": (config.max_loop_share, value["loop_rate"] > config.max_loop_share, "above max_loop_share"),
        }
        for name, (limit, bad, words) in limits.items():
            self.bad[name] = self.bad[name] + 1 if limit and bad else 0
            if self.bad[name] >= config.patience:
                return f"{name} {value[name]:.4g} is {words} ({limit:g}) for {self.bad[name]} steps in a row"
        return None
