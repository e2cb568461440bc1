"""Check the arithmetic a text writes down: which equalities hold, where the first error is, what was taken back.

>>> report = check("3 * 4 = 12, and 12 + 5 = 18.")
>>> [(link.lhs, link.rhs, link.verdict) for link in report.links]
[('3 * 4', '12', 'valid'), ('12 + 5', '18', 'invalid')]

Time and memory are linear in the text and bounded per equation; see docs/arithmetic-checker.md for what it was
measured to find and to leave alone.
"""

from opsd_eval.arithmetic.check import Link, Report, check

__all__ = ["Link", "Report", "check"]
