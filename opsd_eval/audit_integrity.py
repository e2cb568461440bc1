"""Is a sample set still what was written: lines of another run in it, files changed since they were measured."""

from __future__ import annotations

from collections.abc import Iterator

from opsd_eval.audit import Finding
from opsd_eval.audit_advice import finding, share
from opsd_eval.audit_scan import Scan
from opsd_eval.whole import changed_since


def foreign_samples(scan: Scan) -> Iterator[Finding]:
    """Draws whose recorded seed is not the one that the run's own seed gives them."""
    if scan.foreign:
        seen = f"{share(len(scan.foreign), scan.n_samples)} samples record a seed that this run would not have used"
        yield finding(scan.name, "foreign_samples", "error", seen, scan.foreign)


def changed_files(scan: Scan) -> Iterator[Finding]:
    """Files that are not what was measured: other bytes, not only more lines at the end."""
    if changed := changed_since(scan.folder / "estimates.json"):
        yield finding(scan.name, "changed_files", "error", f"{', '.join(changed)} changed since it was measured")
