import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analyses.jobs import Job, JobFailed, run_jobs

ROOT = Path(__file__).parents[2]


def write(path, text="x", seconds=0.0):
    print(f"writing {path}")
    time.sleep(seconds)
    Path(path).write_text(f"{text} {time.monotonic()}")


def fail():
    raise ValueError("no such thing")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def finished(path):
    return float(Path(path).read_text().split()[-1])


def test_jobs_run_after_what_they_need_and_print_into_their_logs(tmp_path):
    jobs = [
        Job("late", write, {"path": str(tmp_path / "late")}, needs=("early", "already done")),
        Job("early", write, {"path": str(tmp_path / "early"), "seconds": 0.3}),
    ]
    run_jobs(jobs, logs=tmp_path / "logs", n_workers=2)
    assert finished(tmp_path / "early") < finished(tmp_path / "late")
    assert f"writing {tmp_path / 'late'}" in (tmp_path / "logs" / "late.log").read_text()


@pytest.mark.parametrize(("function", "said"), [(fail, "ValueError: no such thing"), (die, "SIGKILL")])
def test_a_failure_names_the_job_and_its_log_and_stops_the_rest(tmp_path, function, said):
    jobs = [
        Job("bad", function),
        Job("after", write, {"path": str(tmp_path / "after")}, needs=("bad",)),
        Job("slow", write, {"path": str(tmp_path / "slow"), "seconds": 60}),
    ]
    started = time.monotonic()
    with pytest.raises(JobFailed) as caught:
        run_jobs(jobs, logs=tmp_path / "logs", n_workers=2)
    assert said in str(caught.value) and str(tmp_path / "logs" / "bad.log") in str(caught.value)
    assert time.monotonic() - started < 30
    assert not (tmp_path / "after").exists() and not (tmp_path / "slow").exists()


def test_a_circle_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="circle"):
        run_jobs([Job("a", fail, needs=("b",)), Job("b", fail, needs=("a",))], logs=tmp_path)


def test_workers_end_when_the_parent_is_killed(tmp_path):
    code = (
        "from pathlib import Path\nfrom analyses.jobs import Job, run_jobs\nfrom job_functions import wait_long\n"
        f"if __name__ == '__main__':\n    pid, logs = {str(tmp_path / 'pid')!r}, Path({str(tmp_path / 'logs')!r})\n"
        "    run_jobs([Job('a', wait_long, {'path': pid})], logs=logs, n_workers=1)\n"
    )
    (tmp_path / "job_functions.py").write_text(
        "import os, time\nfrom pathlib import Path\n"
        "def wait_long(path):\n    Path(path).write_text(str(os.getpid()))\n    time.sleep(120)\n"
    )
    (tmp_path / "main.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], env=environment, stderr=subprocess.DEVNULL)
    pid = _wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _alive(int(pid)))


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_ends_a_command_quietly(unbuffered):
    with subprocess.Popen(
        [sys.executable, "-m", "analyses.study", "status", "--config", "tiny"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as command:  # fmt: skip
        command.stdout.close()
        assert command.stderr.read() == b"" and command.wait() == 0


def _alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)
    return value
