"""Math-Verify in a process that can be killed: time, memory and text size are bounded outside of it.

:class:`AlgebraJudge` (the caller's side) talks to ``python -m opsd_eval.grading_worker``. That process loads the
algebra system once and forks a child for the work. A child is ended by the kernel after 1.5 s of processor time for
one question (so that a verdict does not depend on how busy the machine is) and by its parent after 20 s of wall
clock; forking anew takes milliseconds. No signal handler or alarm is used anywhere.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

SECONDS = 1.5
WALL_SECONDS = 20.0
START_SECONDS = 120.0
MEMORY_BYTES = 3 << 30
MAX_CHARS, MAX_DEPTH, MAX_DIGIT_RUN = 512, 12, 128
_DIGITS = re.compile(rf"\d{{{MAX_DIGIT_RUN + 1}}}")
_TOWER = re.compile(r"(?:\^|\*\*)[{(\s]{0,4}\d{1,9}(?:\^|\*\*)[{(\s]{0,4}\d{1,9}(?:\^|\*\*)")
_BIG_EXPONENT = re.compile(r"(?:\^|\*\*)[({\s]{0,4}\d{5}")
_BIG_FACTORIAL = re.compile(r"\d{5}[)}\s]{0,4}!")


def is_too_large(answer: str) -> str | None:
    """Why an answer is not given to the algebra system: length, nesting, digits, exponent towers; ``None`` if fine."""
    if len(answer) > MAX_CHARS:
        return "too long"
    if _depth(answer) > MAX_DEPTH:
        return "nested too deeply"
    if _DIGITS.search(answer):
        return "too many digits"
    if _TOWER.search(answer) or _BIG_EXPONENT.search(answer) or _BIG_FACTORIAL.search(answer):
        return "exponent or factorial too large"
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        if letter in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in ")]}":
            depth = max(0, depth - 1)
    return deepest


class AlgebraJudge:
    """Whether two answers are mathematically equal, within ``seconds`` of processor time each (20 s of wall clock).

    ``equal`` returns ``None`` when the question was given up (too large, too slow, out of memory); ``given_up``
    counts those. The process starts at the first question and ends with :meth:`close`.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self.given_up = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = b""

    def equal(self, gold: str, candidate: str) -> bool | None:
        """Whether the candidate equals the gold answer (Math-Verify is asymmetric: the gold answer comes first)."""
        verdict = None
        if is_too_large(gold) is None and is_too_large(candidate) is None:
            verdict = self._ask({"gold": gold, "candidate": candidate})
        self.given_up += verdict is None
        return verdict

    def _ask(self, question: dict[str, str]) -> bool | None:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.close()
            return None
        line = self._read_line(WALL_SECONDS + 20)
        if line is None:
            self.close()
            return None
        return json.loads(line)["equal"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            from opsd_eval.workers import python_environment

            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "opsd_eval.grading_worker", str(self.seconds)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=python_environment(),
            )
            self._answers = b""
            if self._read_line(START_SECONDS) is None:
                self.close()
                raise RuntimeError("the grading process did not start; is math-verify installed? (pip install opsd)")
        return self._process

    def _read_line(self, seconds: float) -> bytes | None:
        assert self._process is not None and self._process.stdout is not None
        line, self._answers = _read_line(self._process.stdout.fileno(), self._answers, seconds)
        return line

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        continue
            self._process = None


def _read_line(fd: int, held: bytes, seconds: float) -> tuple[bytes | None, bytes]:
    """Read one line from a pipe within a wall-clock limit: (line or None, bytes after it)."""
    deadline = time.monotonic() + seconds
    while b"\n" not in held:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None, held
        block = os.read(fd, 65536)
        if not block:
            return None, held
        held += block
    line, _, rest = held.partition(b"\n")
    return line, rest


# --- inside the process -----------------------------------------------------------------------------------


def judge(gold: str, candidate: str) -> bool:
    """Math-Verify's verdict on two bare answers, its own timers off (the caller bounds the time)."""
    from math_verify import parse, verify

    gold_parsed = parse(f"${gold}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    candidate_parsed = parse(f"${candidate}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return bool(gold_parsed and candidate_parsed and verify(gold_parsed, candidate_parsed, timeout_seconds=None))


def _child(questions: int, answers: int, seconds: float) -> None:
    """Answer questions until the pipe closes; runs in the forked child.

    The processor-time limit also ends a child whose callers have all been killed.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with os.fdopen(questions, "rb") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            row = json.loads(line)
            try:
                verdict: bool | None = judge(row["gold"], row["candidate"])
            except Exception:
                verdict = None
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(answers, json.dumps({"equal": verdict}).encode() + b"\n")


def _fork(seconds: float) -> tuple[int, int, int]:
    """Fork a child; returns (pid, write end of its questions, read end of its answers)."""
    question_read, question_write = os.pipe()
    answer_read, answer_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(question_write)
        os.close(answer_read)
        os.close(0)
        try:
            _child(question_read, answer_write, seconds)
        finally:
            os._exit(0)
    os.close(question_read)
    os.close(answer_write)
    return pid, question_write, answer_read


def _end(child: tuple[int, int, int]) -> None:
    pid, question_write, answer_read = child
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(question_write)
    os.close(answer_read)


def _serve(seconds: float) -> None:
    """Relay questions to the child, killing one that takes too long."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    judge("\\frac{1}{2}", "0.5")  # loads the algebra system once, before forking
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _reply(output, {"ready": True})
    child = _fork(seconds)
    for line in sys.stdin.buffer:
        try:
            os.write(child[1], line)
            answer, _ = _read_line(child[2], b"", WALL_SECONDS)
        except BrokenPipeError:
            answer = None
        if answer is None:
            _end(child)
            child = _fork(seconds)
        _reply(output, json.loads(answer) if answer is not None else {"equal": None})
    _end(child)


def _reply(output: Any, row: dict[str, Any]) -> None:
    output.write(json.dumps(row).encode() + b"\n")
    output.flush()


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
