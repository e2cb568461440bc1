"""Diversity at equal draws, embeddings, distinguishability: by hand and by enumeration."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from opsd_eval.metrics import CORPUS_METRICS, METRICS, find_metric
from opsd_eval.metrics.calibration import calibration_pairs, quantile
from opsd_eval.metrics.diversity import bleu
from opsd_eval.metrics.embeddings import _average_linkage, use_encoder, vendi_score
from opsd_eval.metrics.encoders import SentenceEncoder, TfidfEncoder, gram, load_encoder, threshold_of
from opsd_eval.metrics.paths import path_of
from opsd_eval.metrics.subsets import expected_classes, expected_entropy, mean_over_subsets
from opsd_eval.records import Problem, Sample

PROBLEM = Problem("p", "How many are there of the apples in the box?", "5")
COUNTS = [(3, 2, 1), (1, 1, 1, 1), (5,), (4, 1), (2, 2, 2), (6, 1, 1)]


def draws(answers, texts=None, right="5"):
    return [
        Sample("p", i, (texts or [f"text {a}" for a in answers])[i], answer_strict=a, correct=a == right, outcome="x")
        for i, a in enumerate(answers)
    ]


@pytest.mark.parametrize("counts", COUNTS)
def test_expectations_over_subsets_equal_enumeration(counts):
    labels = [i for i, count in enumerate(counts) for _ in range(count)]
    for m in range(1, len(labels) + 1):
        chosen = list(itertools.combinations(labels, m))
        distinct = sum(len(set(s)) for s in chosen) / len(chosen)
        entropy = sum(-sum(c / m * math.log(c / m) for c in Counter(s).values()) for s in chosen) / len(chosen)
        assert expected_classes(counts, m) == pytest.approx(distinct)
        assert expected_entropy(counts, m) == pytest.approx(entropy, abs=1e-12)
    assert math.isnan(expected_classes(counts, len(labels) + 1)) and math.isnan(expected_entropy(counts, 0))


def test_distinct_answers_by_hand():
    samples = draws(["5", "5", "7", "8"])  # m = 2: six pairs, one of them alike
    assert METRICS["distinct_answers"](PROBLEM, samples) == pytest.approx(2 - 1 / 6)
    assert METRICS["distinct_answers_correct"](PROBLEM, samples) == pytest.approx(1.0)
    assert METRICS["answer_entropy"](PROBLEM, samples) == pytest.approx(5 / 6 * math.log(2))
    assert math.isnan(METRICS["distinct_answers_correct"](PROBLEM, draws(["5", "6", "7", "8"])))


def test_loops_other_languages_and_no_answers_are_left_out():
    chinese = "我们首先计算这个数的值，然后再检查一下结果，所以答案是"
    loop = "This is it, and so on. " * 60
    texts = ["one of the apples", "two of the apples", loop, chinese]
    samples = draws(["5", "7", "8", "9"], texts)
    assert METRICS["distinct_answers"](PROBLEM, samples) == 2.0  # the two that are left, m = 2
    assert math.isnan(METRICS["distinct_answers"](PROBLEM, draws([None, None, "5", None])))


def test_paths_are_sets_of_computed_values():
    assert path_of("3 + 4 = 7, then 7 * 2 = 14") == path_of("So 7 * 2 = 14, because 3 + 4 = 7.") == {"7", "14"}
    texts = ["3 + 4 = 7 and 7 * 2 = 14", "7 * 2 = 14 and 3 + 4 = 7", "3 * 2 = 6, 4 * 2 = 8, 6 + 8 = 14", "no equations"]
    samples = draws(["5"] * 4, texts)
    # three draws with paths, classes of 2 and 1: pairs alike 1/3
    assert METRICS["distinct_paths"](PROBLEM, samples) == pytest.approx(2 - 1 / 3)
    assert METRICS["distinct_paths_correct"](PROBLEM, samples) == pytest.approx(2 - 1 / 3)


def test_bleu_by_hand():
    assert bleu("a b c d e", "a b c d e") == pytest.approx(1.0)
    assert bleu("a b c d", "e f g h") == 0.0
    # unigrams 3/4, bigrams (2+1)/(3+1), trigrams (1+1)/(2+1), four-grams (0+1)/(1+1)
    assert bleu("a b c x", "a b c y") == pytest.approx((3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert bleu("a b", "a b c d") == pytest.approx(math.exp(1 - 4 / 2))  # brevity
    assert math.isnan(bleu("", "a"))


def test_self_bleu_is_one_for_copies():
    same = draws(["5"] * 4, ["the same words here"] * 4)
    assert find_metric("self_bleu")(PROBLEM, same) == pytest.approx(1.0)


def test_mean_over_subsets_is_exact_or_fixed():
    assert mean_over_subsets(4, 2, lambda rows: float(rows.sum())) == pytest.approx(3.0)
    big = [mean_over_subsets(40, 20, lambda rows: float(rows.mean())) for _ in range(2)]
    assert big[0] == big[1] and 15 < big[0] < 25
    assert math.isnan(mean_over_subsets(1, 2, lambda rows: 1.0))


# --- embeddings -------------------------------------------------------------------------------------------


def test_vendi_of_identical_is_one_and_of_orthogonal_is_n():
    assert vendi_score(np.ones((5, 5))) == pytest.approx(1.0)
    assert vendi_score(np.eye(5)) == pytest.approx(5.0)
    # two alike and one orthogonal: eigenvalues 2/3, 1/3
    kernel = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert vendi_score(kernel) == pytest.approx(math.exp(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))))


def test_average_linkage_by_hand():
    similarities = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])
    labels = _average_linkage(similarities, 0.8)
    assert labels[0] == labels[1] != labels[2]
    assert len(set(_average_linkage(similarities, 0.95))) == 3
    assert _average_linkage(np.ones((1, 1)), 0.8) == (0,)


def test_tfidf_space_separates_and_counts_clusters():
    space = use_encoder("tfidf")
    assert space.threshold == pytest.approx(threshold_of(TfidfEncoder()))
    alike = "We add the two numbers in the box, 3 + 4 = 7, and this is the answer to the question."
    other = "Draw a rectangle, colour one half of it red; counting squares along its edge shows seven."
    samples = draws(["5"] * 4, [alike, alike + " Done.", other, other + " Done."])
    # clusters of two and two, m = 2: pairs alike 2 of 6
    assert METRICS["embedding_clusters"](PROBLEM, samples) == pytest.approx(2 - 2 / 6)
    assert METRICS["cluster_entropy"](PROBLEM, samples) == pytest.approx(4 / 6 * math.log(2))
    assert METRICS["cluster_top_share"](PROBLEM, samples) == pytest.approx((2 * 1.0 + 4 * 0.5) / 6)
    assert 1 < METRICS["vendi"](PROBLEM, samples) < 2
    assert METRICS["vendi"](PROBLEM, draws(["5"] * 4, [alike] * 4)) == pytest.approx(1.0)


def test_tfidf_survives_empty_and_odd_texts():
    rows = TfidfEncoder().encode(["", "\ud800", "a b c"])
    assert gram(rows).shape == (3, 3) and np.isfinite(gram(rows)).all()


def test_quantile():
    assert quantile([1, 2, 3, 4, 5], 0.5) == 3 and quantile([0.0, 10.0], 0.1) == 1.0


def test_calibration_pairs_are_fixed():
    assert calibration_pairs() == calibration_pairs()
    same, other = calibration_pairs()
    assert len(same) == len(other) >= 40 and all(a != b for a, b in same)


def test_unknown_encoder_says_what_to_do():
    with pytest.raises(ValueError, match="minilm"):
        load_encoder("no/such/folder")


@pytest.mark.real
def test_minilm_tells_another_route_from_another_phrasing():
    encoder = load_encoder("minilm")
    assert isinstance(encoder, SentenceEncoder)
    threshold = threshold_of(encoder)
    assert 0.75 < threshold < 0.85
    same, other = calibration_pairs(seed=1)  # other numbers than those calibrated on
    for pairs, low, high in ((same, 0.8, 1.0), (other, 0.0, 0.1)):
        similarity = gram(encoder.encode([text for pair in pairs for text in pair]))
        joined = np.mean([similarity[i, i + 1] >= threshold for i in range(0, 2 * len(pairs), 2)])
        assert low <= joined <= high


@pytest.mark.real
def test_minilm_reads_equal_texts_once_and_gives_them_equal_vectors(monkeypatch):
    encoder = load_encoder("minilm")
    assert isinstance(encoder, SentenceEncoder)
    encode, read = encoder.model.encode, []
    monkeypatch.setattr(encoder.model, "encode", lambda pieces, **how: read.extend(pieces) or encode(pieces, **how))
    texts = ["so it is 7", "", "wait, 8 it is, since 7 was odd", "so it is 7"] * 20
    found = encoder.encode(texts)
    assert read == ["so it is 7", "wait, 8 it is, since 7 was odd"]
    assert (found[0::4] == found[0]).all() and (found[3::4] == found[0]).all() and not found[1::4].any()
    assert found[0] == pytest.approx(encoder.encode([texts[0]])[0], abs=1e-6)
    assert abs(found[0] @ found[2]) < 0.99


@pytest.mark.real
def test_minilm_pools_long_completions_over_windows():
    encoder = load_encoder("minilm")
    head, tail = "apples in a box, counted one by one. " * 60, "prime numbers and their squares modulo seven. " * 60
    rows = encoder.encode([head, head + tail, head[:200], ""])
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1, 0])
    similarity = gram(rows)
    assert similarity[0, 1] < 0.88 < similarity[0, 2]  # what stands after the first window is read


# --- distinguishability -----------------------------------------------------------------------------------


def retrieval_set(texts):
    problems = [Problem(f"p{i}", "What is it?", "5") for i in range(len(texts))]
    groups = [[Sample(f"p{i}", d, text) for d, text in enumerate(group)] for i, group in enumerate(texts)]
    return problems, groups


def test_distinguishability_of_clear_and_of_collapsed_sets():
    metric = CORPUS_METRICS["distinguishability"]
    words = ["apples boxes farmer", "trains stations minutes", "circles radius area", "coins dice chance"]
    clear = [[f"{w} number {d}" for d in range(3)] for w in words]
    assert metric.compute(*retrieval_set(clear)) == 1.0
    collapsed = [["the answer is always the same template"] * 3 for _ in words]
    assert metric.compute(*retrieval_set(collapsed)) == pytest.approx(1 / 4)  # every centroid ties
    assert metric.chance(4) == 0.25


def test_distinguishability_masks_the_question():
    problems = [Problem("a", "About zebras?", "1"), Problem("b", "About yaks?", "1")]
    groups = [
        [Sample("a", d, "zebras then template words here") for d in range(2)],
        [Sample("b", d, "yaks then template words here") for d in range(2)],
    ]
    assert CORPUS_METRICS["distinguishability"].compute(problems, groups) == 0.5


def test_distinguishability_needs_two_problems_with_two_draws():
    assert math.isnan(CORPUS_METRICS["distinguishability"].compute(*retrieval_set([["a b"], ["c d"]])))
