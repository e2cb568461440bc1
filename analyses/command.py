"""How a long command of this folder ends: Ctrl-C, SIGTERM, errors, a reader who leaves, exit codes, seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from analyses.jobs import JobFailed


def finish_with(work: Callable[[], str]) -> int:
    """Do the work in one-thread processes; print what it returns and the seconds. Returns the exit code.

    1: an error, named on standard error; 130: Ctrl-C; SIGTERM raises ``SystemExit(143)``. Workers save before either.
    A reader of our output who leaves (``| head``) is no error.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, _on_sigterm)
    started = time.monotonic()
    try:
        said = work()
        print(f"\n{time.monotonic() - started:.0f} s; {said}", flush=True)
    except BrokenPipeError:  # what is left in the buffer goes nowhere; a lost worker is a JobFailed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, JobFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _on_sigterm(*_: object) -> None:
    raise SystemExit(143)
