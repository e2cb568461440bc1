"""Run a command, kill it at random moments, start it again until it ends by itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The environment of a child: one thread, no network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def runs(pid: int) -> bool:
    """Whether the process has not ended yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run(module: str, *arguments: object, timeout: float = 600) -> subprocess.CompletedProcess:
    """Run ``python -m module arguments`` to its end and return what it printed; the exit code must be 0."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def run_with_kills(
    module: str, *arguments: object, resume: Sequence[object] = (), kills: int, span: tuple[float, float], seed: int = 0,
    sent: signal.Signals = signal.SIGKILL, first_when: Path | None = None,
) -> int:
    """Start the command, send a signal after a random time within ``span`` seconds, and start it again.

    The first signal is sent as soon as the file ``first_when`` holds something, where one is given, so that it meets
    the process at work however fast the machine is. The arguments of ``resume`` are added from the second start on. After ``kills`` signals it runs to its end, and
    its exit code must be 0. Returns the number of signals that met a live process.
    """
    rng = random.Random(seed)
    met = 0
    for number in range(kills + 1):
        again = resume if number else ()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments), *map(str, again)],
            cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        if number < kills:
            wait = rng.uniform(*span)
            if number == 0 and first_when is not None:
                wait = 0.0
                while process.poll() is None and not (first_when.exists() and first_when.stat().st_size):
                    time.sleep(0.01)
            try:
                output, _ = process.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                met += 1
                os.killpg(process.pid, sent)
                output, _ = process.communicate(timeout=120)
                time.sleep(0.05)
                continue
        else:
            output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, f"exit {process.returncode}\n{output.decode(errors='replace')[-4000:]}"
    return met
