"""A report on a log in which everything is hostile, in a real browser: no script runs and no request leaves the page."""

from __future__ import annotations

import json

import pytest

from opsd_eval.cli import main
from tests.browser import visit
from tests.faults.hostile import PIECES

pytestmark = pytest.mark.real
MARK = "document.documentElement.dataset.ran=1;document.title='owned'"
ATTACKS = [
    f"<script>{MARK}</script>", f"<img src=x onerror=\"{MARK}\">", f"<svg onload=\"{MARK}\"><a xlink:href='javascript:{MARK}'>",
    f"</pre></article></main></body></html><script>{MARK}</script>", f"<svg><script>{MARK}</script></svg>",
    "<link rel=stylesheet href=http://127.0.0.1:9/a.css><img src=//127.0.0.1:9/b.png><iframe src=http://127.0.0.1:9/c>",
    f"<iframe srcdoc=\"<script>parent.{MARK}</script>\"></iframe>", "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/d'>",
    f"<math><mtext><table><mglyph><style><img src=x onerror=\"{MARK}\">", "<base href=http://127.0.0.1:9/><form action=e><input autofocus>",
    f"\"><details open ontoggle=\"{MARK}\">", f"'-alert(1)-'\" onfocus=\"{MARK}\" autofocus x=\"", f"{{{{ self.__init__.__globals__ }}}}<b onclick={MARK}>",
    f"<![CDATA[<script>{MARK}</script>]]>", f"<template><script>{MARK}</script></template>", "<object data=http://127.0.0.1:9/f><embed src=//127.0.0.1:9/g>",
    f"\u202e<script>{MARK}</script>", f"<scr\x00ipt>{MARK}</scr\x00ipt>", f"\ud800<script>{MARK}</script>", f"javascript:{MARK}", f"<a href=\"data:text/html,<script>{MARK}</script>\">x",
    "<style>*{background:url(http://127.0.0.1:9/h)}</style>", "<link rel=dns-prefetch href=//evil.example><link rel=preconnect href=//evil.example>",
]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Ids, questions, answers, completions and the names of the sets are attacks."""
    folder = tmp_path_factory.mktemp("hostile")
    sets = [folder / f"<img src=x onerror={n}>" for n in "ab"]
    texts = [*ATTACKS, *PIECES][:48]
    for number, out in enumerate(sets):
        log = folder / f"log{number}.jsonl"
        rows = [
            {"problem_id": f"{text}#{at}", "question": text, "answer": text, "draw": draw, "text": f"{text}\\boxed{{{text}}}",
             "benchmark": text, "split": ATTACKS[0], "model": ATTACKS[1]}
            for at, text in enumerate(texts) for draw in range(2)
        ]  # fmt: skip
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["ingest", str(log), "--out", str(out), "--format", "generic"]) == 0
        assert main(["measure", str(out)]) == 0
    assert main(["report", *map(str, sets), "--out", str(folder / "report")]) == 0
    return folder / "report"


def pages(report):
    return [report / "report.html", *sorted((report / "completions").iterdir())[:3], *sorted(report.rglob("*.svg"))[:2]]


@pytest.mark.parametrize("at", range(6))
def test_nothing_of_the_samples_runs_and_nothing_is_asked_for(report, tmp_path, at):
    dom, urls = visit(pages(report)[at], tmp_path)
    assert 'data-ran="1"' not in dom and "<title>owned" not in dom
    assert urls == []


def test_the_browser_would_have_shown_it(tmp_path):
    """The same attacks on a page that does not guard itself: the test above can fail."""
    page = tmp_path / "page.html"
    page.write_text(f"<html><body>{ATTACKS[0]}{ATTACKS[5]}</body></html>")
    dom, urls = visit(page, tmp_path)
    assert 'data-ran="1"' in dom and "<title>owned" in dom and any("127.0.0.1:9" in url for url in urls)
