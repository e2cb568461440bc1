"""Execute the notebooks and write readable copies: ``python -m analyses.render_notebooks`` fills ``docs/notebooks``.

``notebooks/*.ipynb`` are kept without outputs; a copy is Markdown with the text that each cell printed and its figures
as SVG files beside it. ``03_read_a_run`` reads the study in ``OPSD_STUDY`` (default: what ``make demo`` left).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat

from opsd_eval.records import write_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
COPIES = ROOT / "docs/notebooks"
_BARS = re.compile(r"^.*(?:\d+%\||it/s\]).*\n?", re.M)  # progress bars, which end up on standard error
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def notebooks() -> list[Path]:
    """The notebooks, in reading order."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def execute(path: Path, *, timeout: int = 600) -> Any:
    """The notebook with its outputs, run from its own folder; an error in a cell is raised."""
    from nbclient import NotebookClient

    book: Any = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    # immediate: a kernel has nothing to save, and one that holds torch takes seconds to end by itself
    NotebookClient(book, timeout=timeout, resources=place, shutdown_kernel="immediate").execute()
    return book


def markdown(book: Any, name: str) -> tuple[str, dict[str, str]]:
    """The executed notebook as Markdown, and the figures it shows: {file name: SVG}."""
    parts = [f"<!-- made from notebooks/{name}.ipynb by python -m analyses.render_notebooks -->"]
    figures: dict[str, str] = {}
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(_fenced(cell.source, "python"))
        for text, svg in _outputs(cell.outputs):
            if svg:
                file = f"{name}_{len(figures) + 1}.svg"
                figures[file] = svg
                parts.append(f"![figure {len(figures)}]({file})")
            elif text.strip():
                parts.append(_fenced(text.rstrip(), ""))
    return "\n\n".join(parts) + "\n", figures


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max((len(m) for m in re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _outputs(outputs: Iterable[Any]) -> Iterable[tuple[str, str]]:
    """(text, SVG) of each output, one of them empty; what was printed in several pieces comes as one."""
    for (kind, name), group in groupby(outputs, key=lambda o: (o.output_type, o.get("name"))):
        if kind == "stream":
            text = "".join(output.text for output in group)
            yield ("" if name == "stderr" else _BARS.sub("", _ANSI.sub("", text))), ""
        else:
            yield from map(_displayed, group)


def _displayed(output: Any) -> tuple[str, str]:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return "", data["image/svg+xml"]
    return data.get("text/markdown") or data.get("text/plain", ""), ""


def code_of(text: str) -> list[str]:
    """The Python cells of a rendered copy."""
    return [code for _, code in re.findall(r"^(`{3,})python\n(.*?)\n\1$", text, re.M | re.S)]


def render(path: Path, out: Path = COPIES) -> Path:
    """Execute one notebook and write its copy; returns the copy."""
    text, figures = markdown(execute(path), path.stem)
    for file, svg in figures.items():
        write_text(out / file, svg)
    write_text(out / f"{path.stem}.md", text)
    return out / f"{path.stem}.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: renders all notebooks, or those whose names begin as given."""
    parser = argparse.ArgumentParser(prog="python -m analyses.render_notebooks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", help="beginnings of names, for instance 01 (default: all)")
    args = parser.parse_args(argv)
    for path in notebooks():
        if not args.names or path.stem.startswith(tuple(args.names)):
            print(render(path).relative_to(ROOT), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
