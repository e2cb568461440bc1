"""A server that goes away and comes back, and requests that never get an answer: nothing else is lost or held up."""

from __future__ import annotations

import threading
import time

import pytest
from engine_fixtures import byte_tokenizer, tiny_model
from fake_server import FakeServer, good

from opsd_eval.engines import Request, Sampling
from opsd_eval.engines.server import ServerEngine
from opsd_eval.records import Problem, load_sample_set, new_run_record, read_jsonl
from opsd_eval.sampling import sample_benchmark

SAMPLING = Sampling(max_new_tokens=8)
ITEMS = [Request(f"p{i}", draw, (10 + i, 20, 30)) for i in range(10) for draw in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def engine_for(fake, folder, **options):
    engine = ServerEngine("tiny", url=fake.url, **{"tokenizer": folder, "batch_size": 4, "timeout": 5.0, **options})
    engine.wire.first_wait = 0.01
    return engine


def port_of(fake):
    return fake.server.server_address[1]


def test_a_server_killed_and_started_again_in_mid_run_is_waited_for(folder):
    with FakeServer() as fake:
        engine, port = engine_for(fake, folder, attempts=2), port_of(fake)
        rows = engine.generate(ITEMS, sampling=SAMPLING)
        found = [next(rows) for _ in range(3)]
    later = []

    def again():
        time.sleep(0.5)
        later.append(FakeServer(port=port))

    threading.Thread(target=again).start()
    found += list(rows)
    assert sorted((c.problem_id, c.draw) for c in found) == sorted((r.problem_id, r.draw) for r in ITEMS)
    later[0].__exit__()


def test_a_server_that_stays_away_ends_the_run_after_the_outage(folder):
    with FakeServer() as fake:
        engine = engine_for(fake, folder, outage=0.5)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"gave up after \d+ tries; the last: URLError"):
        list(engine.generate(ITEMS, sampling=SAMPLING))
    assert time.monotonic() - started > 0.5


def test_an_adapter_is_loaded_again_into_a_server_that_started_again(folder, tmp_path):
    with FakeServer() as fake:
        engine, port = engine_for(fake, folder), port_of(fake)
        engine.use_adapter(tmp_path)
        assert [name for name, _ in fake.commands] == ["load_lora_adapter"]
    with FakeServer(port=port) as fake:
        assert len(list(engine.generate(ITEMS, sampling=SAMPLING))) == len(ITEMS)
        assert {(name, body["lora_path"]) for name, body in fake.commands} == {("load_lora_adapter", str(tmp_path))}
        assert {body["model"] for body in fake.bodies} == {engine.model}


def test_a_model_that_is_not_served_any_more_ends_the_run(folder):
    with FakeServer() as fake:
        engine = engine_for(fake, folder)
        fake.models = {"another"}
        with pytest.raises(ValueError, match="HTTP 404"):
            list(engine.generate(ITEMS, sampling=SAMPLING))


def test_one_request_without_an_answer_holds_up_no_other_and_is_named(folder, tmp_path):
    """Two of twenty requests are always answered with an error; the set is complete but for these."""
    problems = [Problem(f"q{i}", f"{i}?", "1") for i in range(10)]

    def sample(fake):
        engine = engine_for(fake, folder, attempts=2, batch_size=2)
        record = new_run_record("x", "samples", model={"path": "tiny"})
        sample_benchmark(
            engine, problems, n=2, sampling=SAMPLING, out=tmp_path, run=record, tokenizer=engine.tokenizer
        )

    def breaks_on_three(handler, body):
        if engine_prompt(body).startswith("3?"):
            handler.reply("out of memory", status=500)
        else:
            handler.reply(good(body))

    def engine_prompt(body):
        text = byte_tokenizer().decode(body["prompt"])
        return text[text.index("3?") :] if "3?" in text else ""

    with FakeServer(always=breaks_on_three) as fake:
        with pytest.raises(ValueError, match=r"2 of 20 requests got no usable answer: q3 draw \d.*HTTP 500") as error:
            sample(fake)
        assert "q3 draw 0" in str(error.value) and "q3 draw 1" in str(error.value)
        assert len(list(read_jsonl(tmp_path / "samples.jsonl"))) == 18
    with FakeServer() as fake:
        sample(fake)
        assert len(fake.bodies) == 2
    assert sum(map(len, load_sample_set(tmp_path).samples.values())) == 20


def test_a_server_that_is_busy_for_long_is_not_given_up(folder):
    """Seven refusals in a row, far beyond the attempts that a wrong answer gets."""
    busy = [lambda handler, body: handler.reply("slow down", status=429)] * 7
    with FakeServer(busy) as fake:
        engine = engine_for(fake, folder, attempts=2, batch_size=1)
        assert len(list(engine.generate(ITEMS[:2], sampling=SAMPLING))) == 2
