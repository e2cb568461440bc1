"""The house rules that a machine can check: sizes, import direction, sourced formulas, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("opsd_eval", "opsd_train", "analyses")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TRACKED_TEXT = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", "")


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_sizes(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 400, f"{ids(path)} is longer than 400 lines: split it by idea"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{ids(path)}: {node.name} has {length} lines, at most 60"


@pytest.mark.parametrize("path", [p for p in FILES if "opsd_eval" in p.parts], ids=ids)
def test_evaluation_never_imports_training(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not any(n.split(".")[0] in ("opsd_train", "analyses") for n in names), f"{ids(path)} imports {names}"


def test_no_dynamic_evaluation_and_no_pickle():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{ids(path)}:{node.lineno} evaluates text"
            if isinstance(node, ast.Import):
                assert not any(a.name.split(".")[0] in ("pickle", "dill", "joblib") for a in node.names), ids(path)


def test_import_is_light():
    code = (
        "import sys, opsd_eval, opsd_eval.records, opsd_eval.cli, opsd_eval.stats;"
        "heavy = {'torch', 'transformers', 'vllm', 'lm_eval', 'sentence_transformers', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def registries():
    from opsd_eval.metrics import CORPUS_METRICS, METRICS, PAIR_METRICS
    from opsd_train.divergence import DIVERGENCES
    from opsd_train.targets import TARGETS
    from opsd_train.weighting import WEIGHTINGS

    yield from ((f"target {name}", target.combine) for name, target in TARGETS.items())
    yield from ((f"divergence {name}", function) for name, function in DIVERGENCES.items())
    yield from ((f"weighting {name}", function) for name, function in WEIGHTINGS.items())
    for kind, registry in (("metric", METRICS), ("pair metric", PAIR_METRICS), ("corpus metric", CORPUS_METRICS)):
        yield from ((f"{kind} {name}", metric.compute) for name, metric in registry.items())


def test_registered_formulas_name_their_source():
    def documented(function):
        while hasattr(function, "func"):  # functools.partial
            function = function.func
        return function.__doc__ or ""

    missing = [name for name, function in registries() if "Source:" not in documented(function)]
    assert not missing, f"no 'Source:' line in the docstring of: {missing}"


def test_tracked_files_name_no_private_path():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in TRACKED_TEXT and path.is_file() and path != Path(__file__) and path.stat().st_size < 2_000_000:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert "/" + "root/" not in text, f"{name} names a home folder"
