"""One HTTP exchange with a completion server that may be down, slow or wrong: bounded, retried, never trusted.

An exchange ends after ``timeout`` seconds however slowly the server drips. A server that cannot be reached is waited
for: it may be starting again.

An API key comes from the environment (``OPSD_API_KEY``, else ``OPENAI_API_KEY``), is sent to the given address only
(redirects are refused), and is cut out of any text that a server sends back.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, TypeVar

from opsd_eval.secrets import redact
from opsd_eval.visible import visible

T = TypeVar("T")

_MOST_BYTES = 64 << 20
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_OF_THIS_REQUEST = frozenset({400, 413, 422})
_BUSY = frozenset({429, 502, 503, 504})  # as a server that is full, or starting again behind a proxy


class BadAnswer(Exception):
    """An answer that cannot be used; the request is sent again."""


class Unanswered(ValueError):
    """One request that got no usable answer; others may."""


class Unknown(ValueError):
    """The server does not know what was asked for (HTTP 404)."""


class ServerGone(ValueError):
    """The server could not be reached for longer than it was waited for."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects: the key and the prompts go to the address the user gave and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        return None


class _Exchange(threading.local):
    """A second handle on the connection that this thread is talking through, so that a watchdog can shut it."""

    sock: socket.socket | None = None


_NOW = _Exchange()


def _connect(*args: Any, **kwargs: Any) -> socket.socket:
    sock = socket.create_connection(*args, **kwargs)
    _NOW.sock = sock.dup()
    return sock


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_SecureConnection, req)


class _Watchdog:
    """Shuts this thread's connection after ``seconds``: no server holds an exchange open by dripping bytes."""

    def __init__(self, seconds: float) -> None:
        self.fired, self._here = False, _NOW.__dict__
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def _shut(self) -> None:
        self.fired = True
        sock = self._here.get("sock")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> _Watchdog:
        _NOW.sock = None
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if _NOW.sock is not None:
            _NOW.sock.close()
        _NOW.sock = None


@dataclass
class Wire:
    """Sends JSON to one server.

    ``timeout`` bounds an exchange in seconds, ``attempts`` the number of tries that get a bad answer, ``outage`` the
    seconds that a server which was there before is waited for when it cannot be reached.
    """

    url: str
    timeout: float = 600.0
    attempts: int = 6
    first_wait: float = 0.5
    outage: float = 600.0
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.username or parts.password:
            raise ValueError("the server address holds a user name or password; pass a key as OPSD_API_KEY instead")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"server address {redact(self.url)!r} should read http://host:port/v1")
        self.url = self.url.rstrip("/")
        self._key = os.environ.get("OPSD_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        proxies = urllib.request.ProxyHandler({} if local else None)
        self._opener = urllib.request.build_opener(_NoRedirect, proxies, _Http, _Https)
        self._met = False

    def ask(
        self, path: str, body: Mapping[str, Any] | None, use: Callable[[Any], T], *, seed: int = 0,
        most_bytes: int = _MOST_BYTES,
    ) -> T:  # fmt: skip
        """``use(JSON answer)`` of the first usable answer; :class:`Unanswered` after ``attempts`` bad ones.

        ``use`` raises :class:`BadAnswer` to have the request sent again. Waits double from ``first_wait`` to 30 s, each
        shortened at random (by ``seed``), and follow a server's Retry-After up to a minute. ``most_bytes`` bounds the
        answer. A server that answers no more raises :class:`ServerGone` after ``outage`` seconds.
        """
        return self._send(path, body, lambda received: use(_parsed(received)), seed=seed, most_bytes=most_bytes)

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a command whose answer's text does not matter."""
        self._send(path, body, lambda received: None, seed=0, most_bytes=_MOST_BYTES)

    def _send(
        self, path: str, body: Mapping[str, Any] | None, use: Callable[[bytes], T], *, seed: int, most_bytes: int
    ) -> T:
        jitter, bad, tries, since = random.Random(seed), 0, 0, None
        while True:
            wait, tries = 0.0, tries + 1
            try:
                received = self._exchange(path, body, most_bytes)
                self._met, since = True, None
                return use(received)
            except urllib.error.HTTPError as error:
                reason, since = self._http_reason(error), since or time.monotonic() if error.code in _BUSY else None
                if error.code in _OF_THIS_REQUEST:
                    raise Unanswered(f"{self.url}{path}: {reason}") from None
                if error.code not in _RETRIED:
                    raise (Unknown if error.code == 404 else ValueError)(f"{self.url}{path}: {reason}") from None
                wait = _retry_after(error)
            except urllib.error.URLError as error:  # nobody listens, unless the connection broke while we spoke
                reason = self.clean(f"{type(error).__name__}: {error}")
                broke = isinstance(error.reason, ConnectionResetError | BrokenPipeError | ConnectionAbortedError)
                since = None if broke else since or time.monotonic()
            except (OSError, HTTPException, BadAnswer) as error:
                reason, since = self.clean(f"{type(error).__name__}: {error}"), None
            if since is not None and self._met:
                over = time.monotonic() - since > self.outage
            else:
                bad += 1
                over = bad >= self.attempts
            pause = max(wait, min(30.0, self.first_wait * 2 ** min(tries - 1, 10)) * jitter.uniform(0.5, 1.0))
            if over or self.stopped.wait(pause):
                raise (ServerGone if since is not None else Unanswered)(
                    f"{self.url}{path}: gave up after {tries} tries; the last: {reason}. What was sampled so far "
                    "is kept: start the same command again when the server answers"
                )

    def _exchange(self, path: str, body: Mapping[str, Any] | None, most_bytes: int) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        with _Watchdog(self.timeout) as watchdog:
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    received = bytearray()
                    while block := response.read1(1 << 16):
                        received += block
                        if len(received) > most_bytes:
                            raise BadAnswer(f"the answer is longer than {most_bytes:,} bytes")
            except urllib.error.HTTPError as error:
                error.fp = io.BytesIO(_first_bytes(error))  # read it while the watchdog looks on
                raise
            except (OSError, HTTPException):
                if watchdog.fired:
                    raise TimeoutError(f"no whole answer within {self.timeout:g} s") from None
                raise
            if watchdog.fired:
                raise TimeoutError(f"no whole answer within {self.timeout:g} s")
            return bytes(received)

    def _http_reason(self, error: urllib.error.HTTPError) -> str:
        text = error.fp.read().decode("utf-8", "replace")
        return self.clean(f"HTTP {error.code} {error.reason}: {' '.join(text.split())[:300]}")

    def clean(self, text: str) -> str:
        """At most 1,000 characters of what a server said, without the key and without control characters."""
        return visible((text.replace(self._key, "[key]") if self._key else text)[:1000])


def _first_bytes(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(2000)
    except (OSError, HTTPException):
        return b""


def _parsed(received: bytes) -> Any:
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"not JSON: {error}") from None


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the server asks to wait, as a number or a date, at most 60; 0 when it does not say."""
    stated = error.headers.get("Retry-After", "").strip()
    try:
        if stated.isascii() and stated.isdigit():
            return min(60.0, float(stated))
        return min(60.0, max(0.0, parsedate_to_datetime(stated).timestamp() - time.time()))
    except (ValueError, OverflowError):
        return 0.0
