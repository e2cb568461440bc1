"""Logs that the ingest tests write, and how they read the sample sets that come out."""

from __future__ import annotations

import json

from opsd_eval.records import load_sample_set


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_all(folder):
    stored = load_sample_set(folder)
    return stored, {key: [s.text for s in samples] for key, samples in stored.samples.items()}


def lm_eval_row(doc_id=0, texts=("a", "b"), **changes):
    row = {"doc_id": doc_id, "doc": {"question": f"q{doc_id}?"}, "target": "1", "resps": [list(texts)],
           "arguments": {"gen_args_0": {"arg_0": "prompt", "arg_1": {}}}, "filter": "none",
           "doc_hash": f"{doc_id:064d}"}
    return {**row, **changes}
