"""Starts and ends of commands that need torch and transformers: most of the time of a short one.

Importing them makes some 450,000 objects that live as long as the process. Python's garbage collector walks over them
again and again while they come, at every full collection later, and once more at exit, and finds nothing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys

#: What the transformers engine and the trainer load a model with.
TRANSFORMERS = ("torch", "transformers.generation", "transformers.models.auto.modeling_auto")


def bring_in(*modules: str) -> None:
    """Import modules for the life of the process, out of the garbage collector's sight; a no-op once they are there.

    For the start of a command, not for a library's function: whatever the process holds by then is never collected.
    """
    if all(name in sys.modules for name in modules):
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name in modules:
            importlib.import_module(name)
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)  # what has come since: the memory goes with the process
