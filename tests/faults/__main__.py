"""``python -m tests.faults``: the full form of the kill tests. Prints one line a scenario and writes the figures as JSON.

Each scenario meets KILLS SIGKILLs at random moments (half by the clock, half at a change on disk), then SIGTERMs and
Ctrl-Cs; every run that gets to its end is compared with an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from pathlib import Path

from tests.faults.rounds import kill_rounds
from tests.faults.runners import RUNNERS, starter
from tests.faults.scenarios import SCENARIOS
from tests.faults.warm import Warm

ALL = {**SCENARIOS, **RUNNERS}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs a scenario (default 50)")
    parser.add_argument("--stops", type=int, default=5, help="SIGTERMs and Ctrl-Cs a scenario, each (default 5)")
    parser.add_argument("--only", action="append", choices=[*ALL], help="one scenario; repeat for several")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    rows = []
    with Warm() as warm, tempfile.TemporaryDirectory(prefix="opsd-faults-") as folder:
        for name in args.only or ALL:
            for sent, count in ((signal.SIGKILL, args.kills), (signal.SIGTERM, args.stops), (signal.SIGINT, args.stops)):
                if not count or (name == "processes" and sent != signal.SIGKILL):  # the launcher has codes of its own
                    continue
                tally = kill_rounds(
                    ALL[name], starter(name, args.seed) if name in RUNNERS else warm,
                    Path(folder) / f"{name}-{sent.name}", kills=count, seed=args.seed, sent=sent,
                )  # fmt: skip
                rows.append({**tally.row(), "sent": sent.name})
                print(f"{name:10} {sent.name:8} {tally.kills:3} met ({tally.by_clock} by the clock, {tally.by_change} at a "
                      f"change on disk), {tally.rounds:3} ends compared, all equal; {tally.seconds:.0f} s", flush=True)  # fmt: skip
                if args.out:
                    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
