"""Semantic diversity: clusters of completions and Vendi score, from any text encoder.

Vectors come from one :class:`Space` at a time (``use_encoder``); ``measure`` encodes a block of problems in one call
before the metrics read it. Measured on request: ``--embeddings minilm``, ``tfidf`` or a model folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from opsd_eval.metrics.base import NAN, Metric, forget_texts
from opsd_eval.metrics.diversity import both
from opsd_eval.metrics.encoders import Encoder, gram, load_encoder, threshold_of
from opsd_eval.metrics.subsets import (
    class_counts,
    eligible,
    expected_classes,
    expected_entropy,
    mean_over_subsets,
    subset_size,
)
from opsd_eval.records import Problem, Sample
from opsd_eval.sample_index import SampleIndex, read_block

DEFAULT_ENCODER = "minilm"
BLOCK_SAMPLES = 2000


class Space:
    """An encoder, its threshold, and the vectors of the texts read last."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.threshold = threshold_of(encoder)
        self.forget()

    def forget(self) -> None:
        """Drop all vectors."""
        self.rows: dict[str, int] = {}
        self.matrix: Any = None
        self.grams: dict[tuple[str, ...], np.ndarray] = {}
        self.labels: dict[tuple[str, ...], tuple[int, ...]] = {}

    def prefetch(self, texts: Sequence[str]) -> None:
        """Encode these texts in one call, in place of those held."""
        self.forget()
        unique = list(dict.fromkeys(texts))
        self.matrix = self.encoder.encode(unique)
        self.rows = {text: row for row, text in enumerate(unique)}

    def similarities(self, texts: tuple[str, ...]) -> np.ndarray:
        """Cosine similarities of some texts, shape (n, n)."""
        if texts not in self.grams:
            if any(text not in self.rows for text in texts):
                self.prefetch(texts)
            self.grams[texts] = gram(self.matrix[[self.rows[text] for text in texts]])
        return self.grams[texts]

    def clusters(self, texts: tuple[str, ...]) -> tuple[int, ...]:
        """Cluster labels: average linkage, cut at the encoder's threshold."""
        if texts not in self.labels:
            self.labels[texts] = _average_linkage(self.similarities(texts), self.threshold)
        return self.labels[texts]


def _average_linkage(similarities: np.ndarray, threshold: float) -> tuple[int, ...]:
    if len(similarities) < 2:
        return tuple(range(len(similarities)))
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1.0 - threshold  # pyright: ignore[reportArgumentType]
    )  # type: ignore[call-arg]
    return tuple(model.fit_predict(np.maximum(0.0, 1.0 - similarities)).tolist())


_SPACES: dict[str, Space] = {}
_ACTIVE = [DEFAULT_ENCODER]


def use_encoder(name: str) -> Space:
    """Make an encoder the one that embedding metrics read; it is loaded once."""
    if name not in _SPACES:
        _SPACES[name] = Space(load_encoder(name))
    _ACTIVE[0] = name
    return _SPACES[name]


def _space() -> Space:
    return use_encoder(_ACTIVE[0])


def _texts(problem: Problem, samples: Sequence[Sample], correct_only: bool) -> tuple[str, ...]:
    """Eligible texts in an order that does not depend on the order of the draws."""
    kept = eligible(problem, samples, correct_only=correct_only)
    return tuple(sample.text for sample in kept if sample.text and sample.text.strip())


def embedding_clusters(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Expected number of clusters of similar completions among m draws, m half of the draws.

    Equation: average-linkage clusters of 1 − cosine, cut at 1 − τ, τ the encoder's 10th percentile over null pairs;
    then Σ_c 1 − C(n − n_c, m) / C(n, m). Loops and off-language draws are left out; NaN when fewer than m remain.
    Neither direction is better. Failure modes: another encoder is another ruler; long completions of one problem are
    alike whatever the route, so few clusters is the normal case. Source: NoveltyBench, arXiv 2504.05228 (distinct_k).
    Differs: average linkage and a calibrated threshold instead of a trained judge; expectation over subsets.
    """
    texts = _texts(problem, samples, correct_only)
    m = subset_size(samples)
    return expected_classes(class_counts(_space().clusters(texts)), m) if len(texts) >= m else NAN


def cluster_entropy(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Expected entropy (nats) over embedding clusters among m draws, m half of the draws.

    Equation: E over m-subsets of −Σ_c p_c ln p_c; 0 to ln m. Clusters, edge cases, failure modes: as for
    embedding_clusters. Neither direction is better. Source: semantic entropy, arXiv 2302.09664. Differs: clusters by
    embedding instead of entailment.
    """
    texts = _texts(problem, samples, correct_only)
    m = subset_size(samples)
    return expected_entropy(class_counts(_space().clusters(texts)), m) if len(texts) >= m else NAN


def cluster_top_share(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Expected share of the largest embedding cluster among m draws, m half of the draws.

    Equation: E over m-subsets of max_c n_c / m; 1/m to 1. Clusters, edge cases, failure modes: as for
    embedding_clusters. Neither direction is better. Source: own definition.
    """
    texts = _texts(problem, samples, correct_only)
    m = subset_size(samples)
    if len(texts) < m:
        return NAN
    labels = np.array(_space().clusters(texts))
    return mean_over_subsets(len(labels), m, lambda rows: float(np.bincount(labels[rows]).max() / m))


def vendi(problem: Problem, samples: Sequence[Sample], correct_only: bool = False) -> float:
    """Vendi score: the effective number of different completions among m draws, m half of the draws.

    Equation: E over m-subsets of exp(−Σ λ ln λ), λ the eigenvalues of K/m, K the cosine similarities. 1 when all are
    the same, m when all are orthogonal. NaN when fewer than m eligible draws remain. Neither direction is better.
    Failure modes: the range is narrow, because completions of one problem are alike; the encoder decides the level.
    Source: arXiv 2210.02410, definition 3.1. Differs: expectation over subsets of fixed size.
    """
    texts = _texts(problem, samples, correct_only)
    m = subset_size(samples)
    if len(texts) < m:
        return NAN
    similarities = _space().similarities(texts)
    return mean_over_subsets(len(texts), m, lambda rows: vendi_score(similarities[np.ix_(rows, rows)]))


def vendi_score(kernel: np.ndarray) -> float:
    """Exp of the entropy of the eigenvalues of a similarity matrix with unit diagonal, divided by its size."""
    eigenvalues = np.linalg.eigvalsh(kernel / len(kernel))
    kept = eigenvalues[eigenvalues > 1e-12]
    return math.exp(-float(np.sum(kept * np.log(kept))))


def fill_embedded(
    index: SampleIndex, metrics: Sequence[Metric], values: dict[str, np.ndarray], *, encoder: str = DEFAULT_ENCODER
) -> Space:
    """Compute embedding metrics of every problem into ``values``; a block of problems is encoded in one call."""
    from tqdm import tqdm

    space = use_encoder(encoder)
    problems = list(index.problems.values())
    with tqdm(total=len(problems), unit="problem", desc="embeddings", disable=None) as bar:
        for block in index.blocks(BLOCK_SAMPLES):
            read = read_block(index.task(block))
            space.prefetch([text for number, samples in read for text in _texts(problems[number], samples, False)])
            for number, samples in read:
                for metric in metrics:
                    values[metric.name][number] = metric(problems[number], samples)
            forget_texts()
            bar.update(len(block))
    space.forget()
    return space


METRICS = (
    *both("embedding_clusters", embedding_clusters, needs=("embeddings",), default=False),
    *both("cluster_entropy", cluster_entropy, needs=("embeddings",), default=False),
    *both("cluster_top_share", cluster_top_share, needs=("embeddings",), default=False),
    *both("vendi", vendi, needs=("embeddings",), default=False),
)
