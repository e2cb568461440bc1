"""Kill a command again and again until it has met so many kills, and compare every time that it ran to its end."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.faults.cold import Cold
from tests.faults.scenarios import Scenario
from tests.faults.warm import Warm


@dataclass
class Tally:
    """What happened to one scenario."""

    name: str
    kills: int = 0
    by_clock: int = 0
    by_change: int = 0
    rounds: int = 0  # times that it ran to its end and was compared
    seconds: float = 0.0
    codes: Counter = field(default_factory=Counter)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "codes": dict(self.codes), "seconds": round(self.seconds, 1)}


def uninterrupted(scenario: Scenario, warm: Warm | Cold, folder: Path) -> tuple[Any, float, int]:
    """The digest of a run that nobody disturbed, the seconds it took, and the number of its changes on disk."""
    work, log = folder / "work", folder / "whole.log"
    work.mkdir(parents=True)
    scenario.prepare(work)
    started = time.monotonic()
    warm.start(scenario.module, scenario.argv(work), log=log, watch=work, die_at=0)
    code, seconds = warm.code(), time.monotonic() - started
    assert code == 0, f"exit {code}: {log.read_text()[-3000:]}"
    return scenario.digest(work), seconds, int((folder / "whole.log.n").read_text())


def kill_rounds(
    scenario: Scenario, warm: Warm | Cold, folder: Path, *, kills: int, seed: int = 0, sent: signal.Signals = signal.SIGKILL
) -> Tally:
    """Meet ``kills`` kills in all, half of them by the clock and half at a change on disk; every end is compared.

    Another signal than SIGKILL comes by the clock only, and must end the command with 128 + its number.
    """
    rng, tally, started = random.Random(f"{scenario.name}/{seed}/{sent}"), Tally(scenario.name), time.monotonic()
    expected, seconds, changes = uninterrupted(scenario, warm, folder)
    assert changes > 0
    progress = tqdm(total=kills, desc=f"{scenario.name} {sent.name}", unit=" kills", disable=None)
    while tally.kills < kills or not tally.rounds:
        work, log = folder / "work", folder / "killed.log"
        begun, met = time.monotonic(), tally.kills
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        scenario.prepare(work)
        done: list[Any] = []
        while True:
            by_change = sent == signal.SIGKILL and rng.random() < 0.5
            last = tally.kills >= kills
            die_at = rng.randint(1, changes) if by_change and not last else None
            pid = warm.start(scenario.module, scenario.argv(work), log=log, watch=work, die_at=die_at)
            code = warm.code() if by_change or last else warm.kill_after(pid, rng.uniform(0, 1.1 * seconds), sent)
            tally.codes[code] += 1
            if code == 0:
                if tally.kills == met:  # undisturbed: on a machine that is idle now, moments of a busy one are too late
                    seconds = min(seconds, time.monotonic() - begun)
                break
            allowed = (-9,) if sent == signal.SIGKILL else (128 + sent, -sent)  # the latter before it listens
            assert code in allowed, f"{scenario.name}: exit {code}: {log.read_text()[-3000:]}"
            tally.kills += 1
            progress.update()
            tally.by_change += by_change
            tally.by_clock += not by_change
            now = scenario.keys(work)
            assert len(now) == len(set(now)), f"{scenario.name}: doubled"
            assert set(done) <= set(now), f"{scenario.name}: reported done, then lost"
            done = now
        assert scenario.digest(work) == expected, f"{scenario.name}: differs from the uninterrupted run"
        left = [p.name for p in work.rglob("*") if p.name.endswith((".tmp", ".partial"))]
        assert not left, f"{scenario.name}: left behind: {left}"
        tally.rounds += 1
    progress.close()
    tally.seconds = time.monotonic() - started
    return tally
