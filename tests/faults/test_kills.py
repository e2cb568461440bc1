"""Every command killed at random moments, in a short form; ``python -m tests.faults`` is the full one."""

from __future__ import annotations

import signal

import pytest

from tests.faults.rounds import kill_rounds
from tests.faults.scenarios import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_the_same_command_goes_on_to_the_same_files(warm, tmp_path, name):
    tally = kill_rounds(SCENARIOS[name], warm, tmp_path, kills=2, seed=1)
    assert tally.kills >= 2 and tally.rounds >= 1


@pytest.mark.parametrize(
    ("name", "sent"), [("training", signal.SIGTERM), ("sampling", signal.SIGINT), ("grading", signal.SIGTERM)]
)
def test_asked_to_stop_it_ends_with_its_state_saved(warm, tmp_path, name, sent):
    tally = kill_rounds(SCENARIOS[name], warm, tmp_path, kills=1, seed=2, sent=sent)
    assert tally.kills >= 1 and tally.rounds >= 1
