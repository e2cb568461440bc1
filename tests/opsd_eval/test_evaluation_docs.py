"""docs/evaluation.md says what the registries say."""

from __future__ import annotations

import re
from pathlib import Path

from opsd_eval.audit_advice import ADVICE
from opsd_eval.ingest import FORMATS
from opsd_eval.listing import metric_rows

DOC = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_metrics_table_is_the_registry():
    shown = re.findall(r"^\| `([^`]+)`(\*?) \| ([a-z ]+) \| (.+) \|$", DOC.split("<!-- metrics:begin")[1], re.M)
    assert [(name + star, note, text) for name, star, note, text in shown] == [row for row in metric_rows() if row[0]]


def test_every_important_finding_and_format_is_named():
    unnamed = {"ingest_note", "prompt_unknown", "sampling_unknown"}
    assert {check for check in ADVICE if check not in DOC} <= unnamed
    assert not [name for name in FORMATS if f"`{name}`" not in DOC]
    assert DOC.count("\n") <= 180
