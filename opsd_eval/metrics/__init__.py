"""Every registered metric by name.

A module of this package lists what it registers in ``METRICS`` (and ``FAMILIES``, ``PAIR_METRICS``,
``CORPUS_METRICS`` where it has them); a new metric is one line there and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from opsd_eval.metrics import (
    accuracy,
    distinguishability,
    diversity,
    embeddings,
    language,
    markers,
    outcomes,
    pairs,
    paths,
    probing,
    repetition,
    steps,
    testbed,
)
from opsd_eval.metrics.base import CorpusMetric, Metric, MetricFamily, PairMetric, SetPairMetric
from opsd_eval.names import unknown_name

__all__ = [
    "CORPUS_METRICS", "FAMILIES", "METRICS", "PAIR_METRICS", "SET_PAIR_METRICS",
    "CorpusMetric", "Metric", "MetricFamily", "PairMetric", "SetPairMetric",
    "default_metrics", "expand_metrics", "find_metric",
]  # fmt: skip

_MODULES: tuple[ModuleType, ...] = (
    accuracy, outcomes, steps, diversity, embeddings, paths, markers, repetition, language, distinguishability,
    pairs, testbed, probing,
)  # fmt: skip


def _registered(attribute: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in _MODULES:
        for item in vars(module).get(attribute, ()):
            assert item.name not in found, f"metric {item.name!r} is registered twice"
            found[item.name] = item
    return found


METRICS: Mapping[str, Metric] = _registered("METRICS")
FAMILIES: Mapping[str, MetricFamily] = _registered("FAMILIES")
PAIR_METRICS: Mapping[str, PairMetric] = _registered("PAIR_METRICS")
SET_PAIR_METRICS: Mapping[str, SetPairMetric] = _registered("SET_PAIR_METRICS")
CORPUS_METRICS: Mapping[str, CorpusMetric] = _registered("CORPUS_METRICS")


#: G-Pass@k at a τ other than that of the family: ``g-pass@8_0.75``, or ``g-pass@k_1`` for every k.
_OTHER_THRESHOLD = re.compile(r"g-pass@(k|\d{1,6})_(0\.\d{1,3}|1(?:\.0)?)")


def default_metrics(n: int) -> list[Metric]:
    """What ``measure`` computes for n draws when no metric is named: everything that is quick and needs no model."""
    return [
        *(family.at(k) for family in FAMILIES.values() if family.default for k in family.ks(n)),
        *(metric for metric in METRICS.values() if metric.default),
    ]


def expand_metrics(names: Iterable[str] | None, n: int) -> list[Metric]:
    """Metrics by name for n draws a problem; a family (``pass@k``) gives one metric for each k, ``None`` the defaults.

    ``pass@8`` is one member of a family. Order is kept, repetitions are dropped; an unknown name is an error with
    the closest names.
    """
    if names is None:
        return default_metrics(n)
    found: dict[str, Metric] = {}
    for name in names:
        for metric in _by_name(name, n):
            found.setdefault(metric.name, metric)
    return list(found.values())


def find_metric(name: str) -> Metric:
    """One metric by the name of its column (``avg@8``, ``marker_rate``)."""
    return expand_metrics([name], 1)[0]


def _by_name(name: str, n: int) -> list[Metric]:
    if name in METRICS:
        return [METRICS[name]]
    if name in FAMILIES:
        return [FAMILIES[name].at(k) for k in FAMILIES[name].ks(n)]
    for family in FAMILIES.values():
        pattern = re.escape(family.name).replace("@k", "@(\\d{1,6})").replace("@n", "@(\\d{1,6})")
        match = re.fullmatch(pattern.replace("\\^k", "\\^(\\d{1,6})"), name)
        if match and int(match[1]) > 0:
            return [family.at(int(match[1]))]
    if match := _OTHER_THRESHOLD.fullmatch(name):
        ks = accuracy.powers(n) if match[1] == "k" else [int(match[1])]
        return [accuracy.g_pass(k, float(match[2])) for k in ks if k > 0]
    if name in (both := {**PAIR_METRICS, **SET_PAIR_METRICS}):
        raise ValueError(f"{name} compares two sample sets: opsd-eval compare BASE OTHER --metric {name}")
    raise ValueError(unknown_name("metric", name, [*FAMILIES, *METRICS, *both]))
