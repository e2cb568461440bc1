"""The notebooks run on small data, are kept without outputs, and their rendered copies show the same code."""

from __future__ import annotations

import ast
import json
import re

import nbformat
import pytest

from analyses import render_notebooks as module

BOOKS = module.notebooks()


def code(path):
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_there_are_four_and_the_readme_names_them():
    readme = (module.ROOT / "README.md").read_text(encoding="utf-8")
    assert len(BOOKS) == 4
    for path in BOOKS:
        assert f"notebooks/{path.name}" in readme and f"docs/notebooks/{path.stem}.md" in readme


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_kept_without_outputs_and_without_logic(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell["id"]
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            assert not any(isinstance(node, ast.ClassDef | ast.While) for node in ast.walk(tree)), cell["id"]
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 6, f"{cell['id']}: {node.name} belongs in the library"


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_rendered_copy_shows_the_same_code(path):
    copy = module.COPIES / f"{path.stem}.md"
    text = copy.read_text(encoding="utf-8")
    assert module.code_of(text) == code(path), f"run: python -m analyses.render_notebooks {path.stem[:2]}"
    for file in re.findall(r"!\[figure \d+\]\((.*?)\)", text):
        assert (copy.parent / file).stat().st_size < 300_000
    assert "Traceback" not in text


@pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
def test_runs_on_small_data(path, tmp_path, monkeypatch, make_study):
    if path.stem.startswith("03"):
        study = make_study(tmp_path / "small")
        (study / "config.json").write_text(json.dumps(small_config()))
        monkeypatch.setenv("OPSD_STUDY", str(study))
    book = module.execute(path, timeout=240)
    text, figures = module.markdown(book, path.stem)
    assert module.code_of(text) == code(path)
    assert EXPECTED[path.stem[:2]] in text
    assert bool(figures) == path.stem.startswith("03")


EXPECTED = {
    "01": "largest difference to the library's target: 0.000", "02": "mean of the column: 0.",
    "03": "the sign is built in by the construction: the teacher", "04": "avg@4          0.73",
}  # fmt: skip


def small_config():
    from analyses.ablation_config import load_config

    _, values = load_config("demo")
    return values | {
        "worlds": {"hunch_r10": {"base_seeds": [0]}}, "evaluate_steps": [10, 20], "n_problems": 12, "draws": 4,
        "primary": ["avg@4", "pass@4"], "margins": {"avg@4": 0.05, "pass@4": 0.05}, "gap_metrics": ["avg@4"],
    }  # fmt: skip
