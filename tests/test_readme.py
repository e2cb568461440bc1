"""What the README shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name):
    return re.search(rf"<!-- {name}:begin -->\n(.*)<!-- {name}:end -->", README, re.S).group(1)


def test_registered_methods_equal_the_registries(capsys):
    from opsd_train.cli import main

    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    wanted = "\n".join(line.rstrip() for line in printed[printed.index("targets (--method.target)") :].splitlines())
    assert block("registered").strip().strip("`").strip() == wanted.strip(), "paste the output of `opsd-train list`"


def test_every_file_in_the_noun_table_exists():
    for name in re.findall(r"\| `\w+` \| (opsd_\w+/[\w./]*) \|", README):
        assert (ROOT / name).exists(), name


def test_recipes_and_make_targets_named_exist():
    from opsd_train.recipes import RECIPES

    for name in re.findall(r"opsd-train (?:run|cost|contexts) (\w+)", README):
        assert name in RECIPES, name
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", README, re.M):
        assert re.search(rf"^{name}:", makefile, re.M), f"make {name}"
