"""Loops: a completion that repeats itself until it is cut off, and where the repeating begins."""

from __future__ import annotations

import zlib

from opsd_eval.metrics.base import NAN, per_text

LOOP_RATIO = 0.10
LOOP_BYTES = 1000
MIN_PERIOD, MAX_PERIOD, PERIODS = 5, 600, 3
MIN_RUN = 200
_MAX_COMPRESSED = 2_000_000


@per_text
def compression_ratio_of(text: str) -> float:
    """``len(zlib level 9) / len(UTF-8 bytes)``; NaN for an empty text. Reads the last 2 MB of a longer one."""
    data = text.encode("utf-8", "surrogatepass")[-_MAX_COMPRESSED:]
    return len(zlib.compress(data, 9)) / len(data) if data else NAN


def tail_period(text: str) -> int | None:
    """The shortest period of 5 to 600 characters that the text ends with, at least three times and 200 characters.

    Exact: the last 3p characters are one string three times over. Linear: only distances at which the last ten
    characters recur are tried.
    """
    end = len(text)
    if end < MIN_RUN:
        return None
    key = text[-2 * MIN_PERIOD :]
    at = end - 2 * MIN_PERIOD
    lowest = max(0, at - MAX_PERIOD)
    while (at := text.rfind(key, lowest, at + len(key) - 1)) >= 0:
        period = end - len(key) - at
        if period < MIN_PERIOD:
            continue
        span = max(PERIODS * period, MIN_RUN)
        if span <= end and text[end - span : end - period] == text[end - span + period :]:
            return period
    return None


@per_text
def loop_onset(text: str) -> int | None:
    """Index of the first character of the loop a text ends in; ``None`` when it does not loop.

    A loop is an exact period at the end (:func:`tail_period`), or, for at least 1,000 bytes, a compression ratio
    below 0.10. The onset is where the exact period begins, one period later (the first round is not a repetition);
    without an exact period it is the first 2,000-character window from which every window compresses below 0.20.
    Trailing white space is ignored. Failure modes: long runs of digits or table rules also compress; a loop that
    counts upwards is found by its ratio, not by its period.
    """
    stripped = text.rstrip()
    period = tail_period(stripped)
    if period is not None:
        return _periodic_from(stripped, period) + period
    if len(text) * 4 < LOOP_BYTES:
        return None
    ratio = compression_ratio_of(text)
    if not ratio < LOOP_RATIO or len(text.encode("utf-8", "surrogatepass")) < LOOP_BYTES:
        return None
    return _onset_by_windows(stripped)


def is_loop(text: str) -> bool:
    """Whether the text ends in a loop."""
    return loop_onset(text) is not None


def _periodic_from(text: str, period: int) -> int:
    """Start of the longest suffix with this period, by bisection (a shorter suffix of a periodic one is periodic)."""
    low, high = 0, len(text) - PERIODS * period
    while low < high:
        middle = (low + high) // 2
        if text[middle : len(text) - period] == text[middle + period :]:
            high = middle
        else:
            low = middle + 1
    return low


def _onset_by_windows(text: str) -> int:
    size = max(2000, len(text) // 500)
    start = max(0, len(text) - size)
    onset = start
    while start > 0:
        start = max(0, start - size // 2)
        data = text[start : start + size].encode("utf-8", "surrogatepass")
        if len(zlib.compress(data, 6)) / max(len(data), 1) >= 2 * LOOP_RATIO:
            return onset
        onset = start
    return onset
