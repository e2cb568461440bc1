"""What the fault tests share: one warm process, and disks that are small or refuse to be written."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager

import pytest

from tests.faults.warm import Warm


@pytest.fixture(scope="package")
def warm():
    """A process with everything imported, which forks the commands."""
    with Warm() as server:
        yield server


@contextmanager
def mounted(folder, *options):
    """A file system in memory at ``folder``; skips where this user may not mount."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no permission to mount here; the test with a file-size limit covers full disks everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    with mounted(tmp_path / "disk", "-o", "size=256k") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path):
    """A folder that cannot be written to, whoever asks: by its mode, or for root by its mount."""
    folder = tmp_path / "read_only"
    if os.geteuid():
        folder.mkdir(mode=0o555)
        yield folder
        return
    with mounted(folder, "-o", "size=64k"):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder
