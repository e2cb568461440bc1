"""Worker processes: order, laziness, errors by message, a dead worker named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opsd_eval.workers import default_processes, python_environment, run_tasks


def double(task):
    if task["x"] == "bad":
        raise ValueError("x must be a number")
    if task["x"] == "die":
        os._exit(3)
    return {"value": 2 * task["x"], "pid": os.getpid()}


TARGET = f"{__name__}:double"


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    found = list(run_tasks(TARGET, ({"x": x} for x in range(9)), processes=processes))
    assert [row["value"] for row in found] == [2 * x for x in range(9)]
    if processes > 1:
        assert os.getpid() not in {row["pid"] for row in found}


def test_tasks_are_taken_as_they_are_needed():
    taken = []

    def tasks():
        for x in range(100):
            taken.append(x)
            yield {"x": x}

    results = run_tasks(TARGET, tasks(), processes=2)
    next(results)
    assert len(taken) <= 5
    results.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_users_mistake_keeps_its_message(processes):
    with pytest.raises(ValueError, match="x must be a number"):
        list(run_tasks(TARGET, [{"x": 1}, {"x": "bad"}], processes=processes))


def test_a_dead_worker_is_reported_not_waited_for():
    with pytest.raises(RuntimeError, match="ended"):
        list(run_tasks(TARGET, [{"x": "die"}, {"x": 1}], processes=2))


def test_a_plain_script_without_a_main_guard_may_use_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from opsd_eval.workers import run_tasks\n"
        f"rows = run_tasks('{TARGET}', [{{'x': 4}}, {{'x': 5}}], processes=2)\n"
        "print([row['value'] for row in rows])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=python_environment(),
                          timeout=120)  # fmt: skip
    assert done.stdout.strip() == "[8, 10]", done.stderr


def test_workers_end_when_their_caller_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom opsd_eval.workers import run_tasks\n"
        f"rows = run_tasks('{TARGET}', ({{'x': x}} for x in range(100)), processes=2)\n"
        "print(next(rows)['pid'], flush=True)\ntime.sleep(600)\n"
    )
    caller = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=python_environment())
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    caller.stdout.close()
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().split()[2]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} outlived its caller")


def test_default_is_the_cores_this_process_may_use():
    assert 1 <= default_processes() <= 8
