"""The optional step judges: their plumbing, with a tiny random model and a stub server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from opsd_eval.records import Problem, RunRecord, Sample, append_samples, read_jsonl, write_problems, write_run
from opsd_eval.step_judges import RewardModel, ServerJudge, judge_set, main, split_steps

PROBLEM = Problem(problem_id="p", question="What is 2 + 3 + 4 ?", answer="9")
TEXT = "2 + 3 = 5\n\n5 + 4 = 10\nso \\boxed{10}"


@pytest.fixture
def sample_set(tmp_path):
    write_run(tmp_path, RunRecord(name="s", kind="eval"))
    write_problems(tmp_path, [PROBLEM])
    append_samples(tmp_path, [Sample("p", 0, TEXT), Sample("p", 1, None), Sample("p", 2, "5 + 4 = 9")])
    return tmp_path


@pytest.fixture
def server():
    """A chat server that always blames step ``answer``; counts requests."""

    class Handler(BaseHTTPRequestHandler):
        answer, seen = "\\boxed{1}", []

        def do_POST(self):
            self.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps({"choices": [{"message": {"content": self.answer}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", Handler
        http.shutdown()


def test_steps_are_lines_or_clauses():
    assert split_steps(TEXT) == ["2 + 3 = 5", "5 + 4 = 10", "so \\boxed{10}"]
    assert split_steps("2 + 3 = 5 ; 5 + 4 = 9 ; \\boxed{9}") == ["2 + 3 = 5 ;", "5 + 4 = 9 ;", "\\boxed{9}"]
    assert split_steps("We add. Then 2.5 stays.") == ["We add.", "Then 2.5 stays."]
    assert split_steps(" \n") == []


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ("step \\boxed{1}", [1.0, 0.0, None]), ("\\boxed{-1}", [1.0, 1.0, 1.0]), ("\\boxed{7}", [None] * 3),
        ("no idea", [None] * 3), ("\\boxed{one}", [None] * 3),
    ],
)  # fmt: skip
def test_server_judge_reads_the_first_wrong_step(server, answer, scores):
    url, handler = server
    handler.answer = answer
    assert ServerJudge(url, "judge").score(PROBLEM, split_steps(TEXT)) == scores
    assert "[1] 5 + 4 = 10" in handler.seen[-1]["messages"][0]["content"]


def test_judging_a_set_writes_rows_once_and_skips_what_has_no_text(server, sample_set, capsys):
    url, handler = server
    handler.answer, handler.seen = "\\boxed{0}", []
    assert main([str(sample_set), "--server", url, "--model", "judge"]) == 0
    rows = list(read_jsonl(judge_set(sample_set, ServerJudge(url, "judge"))))
    assert [(row["draw"], row["first_error"]) for row in rows] == [(0, 0), (2, 0)]
    assert len(handler.seen) == 2
    assert "unmeasured" in capsys.readouterr().out


def test_one_kind_of_judge_must_be_named(sample_set):
    with pytest.raises(SystemExit):
        main([str(sample_set), "--server", "http://127.0.0.1:1"])


def test_reward_model_scores_every_step(tmp_path):
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["[UNK]", "\u043a\u0438", "+", "-", *map(str, range(12)), "=", "so", "What", "is", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    judge = RewardModel(str(tmp_path))
    scores = judge.score(PROBLEM, split_steps(TEXT))
    assert len(scores) == 3
    assert all(score is not None and 0 < score < 1 for score in scores)
    assert judge.score(PROBLEM, split_steps(TEXT)[:1]) == pytest.approx(scores[:1], rel=1e-4)
    judge.max_tokens = 5
    assert judge.score(PROBLEM, split_steps(TEXT)) == [None] * 3
    with pytest.raises(ValueError, match="no token for"):
        RewardModel(str(tmp_path), tag="\u2603")
