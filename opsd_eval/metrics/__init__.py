"""Every registered metric by name. A new one is a line in its module's ``METRICS`` tuple."""

from __future__ import annotations

from opsd_eval.metrics.base import CorpusMetric, Metric, MetricFamily, PairMetric

__all__ = ["CorpusMetric", "Metric", "MetricFamily", "PairMetric"]
