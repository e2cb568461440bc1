"""Embedded testbed: procedural reasoning problems, and small bases trained on their solutions. See README.md here."""

from opsd_eval.testbed.bases import base_path, shipped_bases
from opsd_eval.testbed.chance import answer_chance, chance
from opsd_eval.testbed.design import DESIGN, Design, design_table, design_values
from opsd_eval.testbed.worlds import SPLITS, SWEEP, WORLDS, World, problems, world

__all__ = [
    "DESIGN",
    "SPLITS",
    "SWEEP",
    "WORLDS",
    "Design",
    "World",
    "answer_chance",
    "base_path",
    "chance",
    "design_table",
    "design_values",
    "problems",
    "shipped_bases",
    "world",
]
