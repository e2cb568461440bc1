"""Modules brought in for the life of a process: out of the garbage collector's sight, and it is on again afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from opsd_eval.startup import bring_in


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that is not there yet and keeps a cycle, and what its import saw of the collector."""
    (tmp_path / "brought_in.py").write_text("import gc\nsaw = gc.isenabled()\nkept = []\nkept.append(kept)\n")
    (tmp_path / "broken_in.py").write_text("raise ImportError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "brought_in"
    sys.modules.pop("brought_in", None)
    gc.freeze()  # again, as tests/conftest.py left it: what follows in this process need not be walked over


def test_new_modules_are_frozen_and_known_ones_change_nothing(module):
    assert gc.isenabled()
    gc.unfreeze()
    bring_in(module)
    assert gc.isenabled() and sys.modules[module].saw is False
    assert gc.get_freeze_count() > 0 and not any(item is sys.modules[module].kept for item in gc.get_objects())
    gc.unfreeze()
    bring_in(module, "sys")
    assert gc.get_freeze_count() == 0


def test_an_import_that_fails_leaves_the_collector_on(module):
    with pytest.raises(ImportError, match="broken"):
        bring_in(module, "broken_in")
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ImportError, match="broken"):
            bring_in("broken_in")
        assert not gc.isenabled(), "as it was"
    finally:
        gc.enable()


def test_a_process_that_brought_much_in_ends_as_any_other():
    """Hooks at exit still run, and output and exit code arrive."""
    code = (
        "import atexit, sys\nfrom opsd_eval.startup import bring_in\nbring_in('pandas')\n"
        "atexit.register(print, 'hook')\nprint(sys.modules['pandas'].DataFrame.__name__)\nsys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (3, "DataFrame\nhook\n"), done.stderr
