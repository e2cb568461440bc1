"""Load a model, a tokenizer and an adapter from disk or a hub, or say exactly what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsd_eval.records import read_json, sha256_folder
from opsd_eval.whole import MANIFEST, what_is_broken

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def check_model(path: str | Path) -> None:
    """A local folder must hold config, weights and tokenizer; a name that is no folder must look like a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") != 1:
            raise ValueError(f"model {str(path)!r}: no such folder; give a folder in Hugging Face format or a hub id")
        return
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        missing.append("model.safetensors (or its shards)")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    if missing:
        raise ValueError(f"model folder {folder} lacks {', '.join(missing)}; save_pretrained writes all of them")


def check_whole(path: str | Path) -> None:
    """Refuse a checkpoint of ours whose weights, config or tokenizer are not what was written."""
    folder = Path(path)
    used = lambda name: not name.startswith(("optimizer.", "ema.", "rng-"))  # noqa: E731
    if (folder / MANIFEST).exists() and (fault := what_is_broken(folder, only=used)) is not None:
        raise ValueError(
            f"checkpoint {folder} is damaged ({fault}); use another one. Training that goes on from an earlier one "
            "(--resume, with this and all later ones removed) writes it again"
        )


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The model's tokenizer; a missing one is a ``ValueError`` that says how to point at a local copy."""
    from transformers import AutoTokenizer

    check_model(path)
    try:
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except OSError as error:
        raise _not_found(path, "tokenizer.json, tokenizer_config.json", error) from error


def load_model(
    path: str | Path, *, adapter: str | Path | None = None, dtype: Any = "auto", device: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:  # fmt: skip
    """A causal language model in evaluation mode, with a LoRA adapter on it when one is given.

    ``device`` defaults to ``cuda`` where there is one. ``trust_remote_code`` runs Python from the model folder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_model(path)
    check_whole(path)
    if adapter is not None:
        check_adapter(adapter, path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path), dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True
        )
    except OSError as error:
        raise _not_found(path, "config.json, model.safetensors", error) from error
    if adapter is not None:
        model = _with_adapter(model, adapter, path)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()  # type: ignore[return-value]


def cached_revision(path: str | Path) -> str | None:
    """The commit of a hub model in the local cache, which is the one that gets loaded; ``None`` for a folder."""
    if Path(path).is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(path), "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def check_adapter(adapter: str | Path, base: str | Path) -> None:
    """Refuse an adapter that was trained on another base.

    A ``base.json`` with ``sha256`` beside the adapter decides; without one, the tokenizers beside both must have one
    vocabulary, and the last part of the base's name that peft recorded must be the last part of the base's path.
    """
    folder = Path(adapter)
    check_whole(folder)
    if missing := [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (folder / n).is_file()]:
        raise ValueError(f"adapter folder {folder} lacks {', '.join(missing)}; peft's save_pretrained writes them")
    stated = folder / "base.json"
    if stated.is_file() and Path(base).is_dir():
        expected, found = read_json(stated).get("sha256"), sha256_folder(base)
        if expected != found:
            raise ValueError(
                f"adapter {folder} was trained on a base whose weights have SHA-256 {str(expected)[:12]}…, but {base} "
                f"has {found[:12]}…; pass the base that the adapter belongs to"
            )
        return
    if (mine := _vocabulary(folder)) and (theirs := _vocabulary(Path(base))) and mine != theirs:
        raise ValueError(
            f"adapter {folder} was trained with a vocabulary of {len(mine)} entries that is not the one of {base} "
            f"({len(theirs)} entries); pass the base that the adapter belongs to"
        )
    recorded = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
    if recorded and Path(recorded).name.lower() != Path(base).name.lower():
        raise ValueError(
            f"adapter {folder} was trained on {recorded!r}, not on {str(base)!r}; pass that base, or correct "
            "base_model_name_or_path in its adapter_config.json if this is the same model under another name"
        )


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token → id as ``tokenizer.json`` has it; empty where there is none to read."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    stored = read_json(path)
    words = stored.get("model", {}).get("vocab") if isinstance(stored, dict) else None
    added = {token["content"]: token["id"] for token in stored.get("added_tokens") or ()} if words else {}
    return {**words, **added} if isinstance(words, dict) else {}


def _with_adapter(model: Any, adapter: str | Path, base: str | Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise ValueError("an adapter needs peft: pip install 'opsd[train]'") from None
    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError) as error:  # shapes or module names that do not match
        raise ValueError(f"adapter {adapter} does not fit the base {base}: {error}") from error


def _not_found(path: str | Path, files: str, error: OSError) -> ValueError:
    return ValueError(
        f"model {str(path)!r} is not a folder here and its files ({files}) are neither in the Hugging Face cache nor "
        "reachable over the network. Copy the model folder to this machine and pass its path, or set HF_HOME to a "
        f"cache that has it. ({str(error).splitlines()[0]})"
    )
