import socket
import time

import pytest
from engine_fixtures import byte_tokenizer, tiny_model
from fake_server import FAILURES, FakeServer, changed, good, without_ids

from opsd_eval.engines import Request, Sampling, load_engine
from opsd_eval.engines.server import ServerEngine
from opsd_eval.records import Problem, load_sample_set, new_run_record, read_jsonl
from opsd_eval.sampling import sample_benchmark

ITEMS = [Request(f"p{i}", draw, (10 + i, 20, 30)) for i in range(10) for draw in range(2)]
KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def engine_for(fake, folder, **options):
    values = {"tokenizer": folder, "batch_size": 4, "timeout": 1.0, **options}
    engine = ServerEngine("tiny", url=fake.url, **values)
    engine.wire.first_wait = 0.01
    return engine


def run(engine, items=ITEMS, logprobs=True):
    found = list(engine.generate(items, sampling=Sampling(max_new_tokens=8), logprobs=logprobs))
    assert len(found) == len(items)
    return {(c.problem_id, c.draw): c for c in found}


@pytest.fixture(scope="module")
def honest(tokenizer_folder):
    with FakeServer() as fake:
        return run(engine_for(fake, tokenizer_folder))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_tried_again_and_changes_nothing(name, honest, tokenizer_folder):
    with FakeServer([FAILURES[name], None, FAILURES[name]]) as fake:
        assert run(engine_for(fake, tokenizer_folder)) == honest
        assert len(fake.bodies) == len(ITEMS) + 2
    assert len({c.token_ids for c in honest.values()}) == len(ITEMS)  # each draw has its own seed


def test_lasting_failure_ends_with_what_arrived(tmp_path, tokenizer_folder):
    problems = [Problem(f"q{i}", f"{i}?", "1") for i in range(10)]

    def sample(fake):
        engine = engine_for(fake, tokenizer_folder, attempts=2, batch_size=2)
        record = new_run_record("x", "samples", model={"path": "tiny"})
        sample_benchmark(
            engine, problems, n=2, sampling=Sampling(max_new_tokens=8), out=tmp_path, run=record,
            tokenizer=engine.tokenizer,
        )  # fmt: skip

    with FakeServer([None] * 9, always=FAILURES["500"]) as fake:
        with pytest.raises(ValueError, match=r"/completions: gave up after 2 tries; the last: HTTP 500.*is kept"):
            sample(fake)
        assert len(list(read_jsonl(tmp_path / "samples.jsonl"))) == 9
    with FakeServer() as fake:
        sample(fake)
        assert len(fake.bodies) == 11
    assert sum(map(len, load_sample_set(tmp_path).samples.values())) == 20


def test_wrong_names_and_servers_without_token_ids_end_at_once(tokenizer_folder):
    with FakeServer(models=("tiny-2", "other")) as fake, pytest.raises(ValueError, match=r"Did you mean 'tiny-2'"):
        engine_for(fake, tokenizer_folder)
    other = lambda handler, body: handler.reply({**good(body), "model": "gpt"})  # noqa: E731
    with FakeServer(always=other) as fake, pytest.raises(ValueError, match=r"asked for model 'tiny', answered by 'gpt'"):
        run(engine_for(fake, tokenizer_folder))
    plain = lambda handler, body: handler.reply(  # noqa: E731
        {"model": "tiny", "choices": [{"text": "hi", "finish_reason": "stop"}]}
    )
    with FakeServer(always=plain) as fake:
        with pytest.raises(ValueError, match="must support return_token_ids"):
            run(engine_for(fake, tokenizer_folder))
        assert len(fake.bodies) <= 4
    refusal = lambda handler, body: handler.reply("bad request", status=400)  # noqa: E731
    with FakeServer(always=refusal) as fake, pytest.raises(ValueError, match=r"HTTP 400 .*bad request"):
        run(engine_for(fake, tokenizer_folder))


def test_a_context_that_would_hold_not_even_the_prompt_excuses_no_half_answer(honest, tokenizer_folder):
    """A server that states a context of 4 tokens could call every cut answer as long as there was room for."""
    half = lambda handler, body: changed(  # noqa: E731
        token_ids=good(body)["choices"][0]["token_ids"][:3], finish_reason="length", logprobs={"token_logprobs": [-0.5] * 3}
    )(handler, body)
    with FakeServer(always=half, context=4) as fake, pytest.raises(ValueError, match="context of 4 leaves 1"):
        run(engine_for(fake, tokenizer_folder, attempts=2))
    with FakeServer(context=11) as fake:  # which holds a prompt of 3 and 8 tokens exactly
        assert run(engine_for(fake, tokenizer_folder)) == honest


def test_one_answer_without_token_ids_among_good_ones_is_asked_for_again(honest, tokenizer_folder):
    with FakeServer([None, without_ids]) as fake:
        assert run(engine_for(fake, tokenizer_folder, batch_size=1)) == honest
        assert len(fake.bodies) == len(ITEMS) + 1


def test_a_server_that_echoes_the_key_as_a_models_name_is_not_repeated(tokenizer_folder, monkeypatch):
    monkeypatch.setenv("OPSD_API_KEY", KEY)
    with FakeServer(models=(KEY,)) as fake, pytest.raises(ValueError, match="served model") as error:
        engine_for(fake, tokenizer_folder)
    assert KEY not in str(error.value)
    echo = lambda handler, body: handler.reply({**good(body), "model": f"\x1b[2J{KEY}"})  # noqa: E731
    with FakeServer(always=echo) as fake, pytest.raises(ValueError, match="answered by") as error:
        run(engine_for(fake, tokenizer_folder))
    assert KEY not in str(error.value) and "\x1b" not in str(error.value)


def test_server_that_is_not_there(tokenizer_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(ValueError, match=r"gave up after 2 tries; the last: URLError"):
            load_engine("server", "tiny", url=url, tokenizer=tokenizer_folder, attempts=2)
    for bad, message in {"localhost:8000": "should read", "http://me:pw@host/v1": "OPSD_API_KEY"}.items():
        with pytest.raises(ValueError, match=message) as error:
            load_engine("server", "tiny", url=bad, tokenizer=tokenizer_folder)
        assert "pw" not in str(error.value)
    with pytest.raises(ValueError, match="needs the server's address"):
        load_engine("server", "tiny", tokenizer=tokenizer_folder)


def test_key_is_sent_but_never_shown_and_redirects_are_refused(tokenizer_folder, monkeypatch):
    monkeypatch.setenv("OPSD_API_KEY", KEY)
    with FakeServer() as elsewhere:

        def redirect(handler, body):
            handler.reply("", status=307, headers=[("Location", elsewhere.url + "/completions")])

        def to_a_file(handler, body):
            handler.reply("", status=302, headers=[("Location", "file:///etc/hostname")])

        def echo(handler, body):
            handler.reply(f"denied: {handler.headers['Authorization']}", status=401)

        for play, status in ((redirect, 307), (to_a_file, 302), (echo, 401)):
            with FakeServer(always=play) as fake:
                with pytest.raises(ValueError, match=f"HTTP {status}") as error:
                    run(engine_for(fake, tokenizer_folder))
                assert fake.headers[0]["Authorization"] == f"Bearer {KEY}" and KEY not in str(error.value)
        assert elsewhere.bodies == []


def test_request_says_everything_explicitly(tokenizer_folder):
    with FakeServer() as fake:
        run(engine_for(fake, tokenizer_folder), ITEMS[:1])
    (body,) = fake.bodies
    assert body["prompt"] == [10, 20, 30] and body["stop_token_ids"] == [2] and body["n"] == 1
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1, 1, 0, 0, 1)


def test_stopping_early_stops_asking(tokenizer_folder):
    with FakeServer() as fake:
        rows = engine_for(fake, tokenizer_folder, batch_size=2).generate(ITEMS, sampling=Sampling(max_new_tokens=8))
        next(rows)
        rows.close()
        time.sleep(0.2)
        assert len(fake.bodies) < len(ITEMS)
