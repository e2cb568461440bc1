"""A completion server that lies, stalls and falls over in every way we thought of, and otherwise answers honestly."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def good(body):
    """The answer of an honest server: the seed's digits as tokens."""
    ids = [3 + int(digit) for digit in str(body["seed"])[:5]] + [2]
    choice = {"index": 0, "text": "", "finish_reason": "stop", "token_ids": ids, "prompt_token_ids": body["prompt"]}
    if body["logprobs"]:
        choice["logprobs"] = {"token_logprobs": [-0.5] * len(ids)}
    return {"model": body["model"], "choices": [choice]}


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class FakeServer:
    """Plays a list of failures, one for each request for a completion, then answers honestly."""

    def __init__(self, failures=(), models=("tiny",), always=None, port=0, context=100):
        self.failures, self.always, self.bodies, self.headers, self.commands = list(failures), always, [], [], []
        self.models = set(models)
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                self.reply({"data": [{"id": name, "max_model_len": context} for name in fake.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/completions"):
                    fake.commands.append((self.path.rsplit("/", 1)[1], body))
                    fake.models = {*fake.models, body["lora_name"]}
                    return self.reply({})
                if body["model"] not in fake.models:
                    return self.reply("no such model", status=404)
                with fake.lock:
                    fake.bodies.append(body)
                    fake.headers.append(dict(self.headers))
                    failure = fake.failures.pop(0) if fake.failures else fake.always
                if failure is None:
                    self.reply(good(body))
                else:
                    failure(self, body)

            def reply(self, answer, status=200, headers=(), cut=None):
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:cut])

            def log_message(self, *args):
                pass

        self.server = _Server(("127.0.0.1", port), Handler)
        self.server.handle_error = lambda *_: None  # a client that gave up is part of the play
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def changed(**changes):
    """A failure that alters the honest answer's choice."""

    def play(handler, body):
        answer = good(body)
        answer["choices"][0].update(changes)
        handler.reply(answer)

    return play


def duplicated(handler, body):
    answer = good(body)
    handler.reply({**answer, "choices": answer["choices"] * 2})


def slow(handler, body):
    time.sleep(1.5)
    handler.reply(good(body))


def trickle(handler, body):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def drip(handler, body):
    """Headers, one byte at a time: each byte is in time, the whole never comes."""
    handler.connection.sendall(b"HTTP/1.0 200 OK\r\n")
    for _ in range(100):
        handler.connection.sendall(b"X")
        time.sleep(0.05)


def drip_error(handler, body):
    handler.send_response(500)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def chunks_without_end(handler, body):
    handler.connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(100):
        handler.connection.sendall(b"0")
        time.sleep(0.05)


def shortened(handler, body):
    """Half of the answer, with the word of honour that it stopped there."""
    answer = good(body)
    answer["choices"][0]["token_ids"] = answer["choices"][0]["token_ids"][:2]
    answer["choices"][0]["logprobs"] = {"token_logprobs": [-0.5] * 2}
    handler.reply(answer)


def reset(handler, body):
    """A reset in the middle of the body: half of an answer, then RST."""
    data = json.dumps(good(body)).encode()
    handler.connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data[: len(data) // 2])
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def gzipped(handler, body):
    """Ten megabytes that claim to be ten kilobytes, which nobody asked for."""
    data = gzip.compress(b" " * (10 << 20) + json.dumps(good(body)).encode())
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.end_headers()
    handler.wfile.write(data)


def unasked(handler, body):
    """Half of an answer whose last token the server calls a reason to stop."""
    ids = good(body)["choices"][0]["token_ids"][:2]
    changed(token_ids=ids, stop_reason=ids[-1], logprobs={"token_logprobs": [-0.5] * 2})(handler, body)


def runs_on(handler, body):
    ids = [2, *good(body)["choices"][0]["token_ids"][1:]]
    changed(token_ids=ids)(handler, body)


def without_ids(handler, body):
    answer = good(body)
    del answer["choices"][0]["token_ids"]
    handler.reply(answer)


def raw(data):
    """Bytes instead of an HTTP answer."""
    return lambda handler, body: handler.connection.sendall(data)


def date(seconds):
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))


FAILURES = {
    "429": lambda handler, body: handler.reply("slow down", status=429, headers=[("Retry-After", "0")]),
    "429 until a date": lambda handler, body: handler.reply("", status=429, headers=[("Retry-After", date(1))]),
    "429 until nonsense": lambda handler, body: handler.reply("", status=429, headers=[("Retry-After", "9" * 400 + "x")]),
    "503": lambda handler, body: handler.reply("starting", status=503),
    "500": lambda handler, body: handler.reply("<html>oops", status=500),
    "truncated JSON": lambda handler, body: handler.reply(json.dumps(good(body))[:40]),
    "body cut short": lambda handler, body: handler.reply(good(body), cut=30),
    "not JSON": lambda handler, body: handler.reply("hello"),
    "a number of 10,000 digits": lambda handler, body: handler.reply("1" * 10_000),
    "deeply nested": lambda handler, body: handler.reply("[" * 200_000),
    "a list": lambda handler, body: handler.reply([1, 2]),
    "choices of another type": lambda handler, body: handler.reply({"model": "tiny", "choices": [3]}),
    "no choices": lambda handler, body: handler.reply({"model": "tiny", "choices": []}),
    "duplicated answer": duplicated,
    "another prompt's answer": changed(prompt_token_ids=[1, 2, 3]),
    "partial answer": changed(finish_reason="length"),
    "aborted answer": changed(finish_reason="abort"),
    "no tokens": changed(token_ids=[]),
    "tokens of another type": changed(token_ids=["a"]),
    "too many tokens": changed(token_ids=[5] * 500),
    "huge token id": changed(token_ids=[10**30]),
    "logp missing": changed(logprobs=None),
    "logp of another length": changed(logprobs={"token_logprobs": [-1.0]}),
    "logp not finite": changed(logprobs={"token_logprobs": [float("nan")] * 6}),
    "too slow": slow,
    "trickling": trickle,
    "headers drop by drop": drip,
    "an error drop by drop": drip_error,
    "chunks without end": chunks_without_end,
    "a huge answer": lambda handler, body: handler.reply(" " * (2 << 20)),
    "a nest of lists": lambda handler, body: handler.reply("[" + "[]," * 900_000 + "[]]"),
    "an answer cut short that claims to have stopped": shortened,
    "no HTTP": lambda handler, body: handler.connection.sendall(b"\x00\xff" * 500),
    "a header of a megabyte": lambda handler, body: handler.connection.sendall(
        b"HTTP/1.0 200 OK\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n"
    ),
    "connection closed": lambda handler, body: handler.connection.shutdown(socket.SHUT_RDWR),
    "reset in the middle of the body": reset,
    "compressed unasked": gzipped,
    "HTML with status 200": lambda handler, body: handler.reply("<!doctype html><title>Sign in</title>"),
    "an empty body": lambda handler, body: handler.reply(""),
    "bytes that are no UTF-8": raw(b"HTTP/1.0 200 OK\r\n\r\n{\"model\": \"\xff\xfe\"}"),
    "a length below zero": raw(b"HTTP/1.0 200 OK\r\nContent-Length: -5\r\n\r\n{}"),
    "a length that is too large": raw(b"HTTP/1.0 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{}"),
    "a status that is no number": raw(b"HTTP/1.0 OK OK\r\n\r\n{}"),
    "continue without end": raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000),
    "a chunk of no size": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    "an id beyond the vocabulary": changed(token_ids=[3, 4, 5, 6, 290_000, 2]),
    "an id below zero": changed(token_ids=[3, 4, 5, 6, -7, 2]),
    "ids that are truths": changed(token_ids=[True] * 5 + [2]),
    "ids that are fractions": changed(token_ids=[3.0, 4.0, 5.0, 6.0, 7.0, 2.0]),
    "ids as an object": changed(token_ids={"0": 3}),
    "another index": changed(index=7),
    "an index below zero": changed(index=-1),
    "an index of another type": changed(index={"0": [1]}),
    "a reason of another type": changed(finish_reason=["stop"]),
    "a reason to stop of another type": changed(stop_reason={"a": [1]}, finish_reason="stop", token_ids=[3, 4]),
    "a reason to stop that nobody asked for": unasked,
    "a token to stop at in the middle": runs_on,
    "logp above 0": changed(logprobs={"token_logprobs": [2.0] * 6}),
    "logp as truths": changed(logprobs={"token_logprobs": [False] * 6}),
    "logp of a thousand digits": changed(logprobs={"token_logprobs": [-(10**1000)] * 6}),
    "logp as text": changed(logprobs={"token_logprobs": ["-0.5"] * 6}),
    "a prompt of another type": changed(prompt_token_ids="[1, 2]"),
}
