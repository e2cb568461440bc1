"""One HTTP exchange with a completion server that may be down, slow or wrong: bounded, retried, never trusted.

An API key comes from the environment (``OPSD_API_KEY``, else ``OPENAI_API_KEY``), is sent to the given address only
(redirects are refused), and is cut out of any text that a server sends back.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_BYTES = 64 << 20
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class BadAnswer(Exception):
    """An answer that cannot be used; the request is sent again."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects: the key and the prompts go to the address the user gave and nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        return None


@dataclass
class Wire:
    """Sends JSON to one server. ``timeout`` bounds an exchange in seconds, ``attempts`` the number of tries."""

    url: str
    timeout: float = 600.0
    attempts: int = 6
    first_wait: float = 0.5
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server address {self.url!r} should read http://host:port/v1")
        if parts.username or parts.password:
            raise ValueError("the server address holds a user name or password; pass a key as OPSD_API_KEY instead")
        self.url = self.url.rstrip("/")
        self._key = os.environ.get("OPSD_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        proxies = urllib.request.ProxyHandler({} if local else None)
        self._opener = urllib.request.build_opener(_NoRedirect, proxies)

    def ask(self, path: str, body: Mapping[str, Any] | None, use: Callable[[Any], T], *, seed: int = 0) -> T:
        """``use(JSON answer)`` of the first usable answer; gives up with ``ValueError`` after ``attempts`` tries.

        ``use`` raises :class:`BadAnswer` to have the request sent again. Waits double from ``first_wait`` to 30 s, each
        shortened at random (by ``seed``), and follow a server's Retry-After up to a minute.
        """
        return self._send(path, body, lambda received: use(_parsed(received)), seed=seed)

    def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a command whose answer's text does not matter."""
        self._send(path, body, lambda received: None, seed=0)

    def _send(self, path: str, body: Mapping[str, Any] | None, use: Callable[[bytes], T], *, seed: int) -> T:
        jitter, reasons = random.Random(seed), []
        for attempt in range(self.attempts):
            wait = 0.0
            try:
                return use(self._exchange(path, body))
            except urllib.error.HTTPError as error:
                reason = self._http_reason(error)
                if error.code not in _RETRIED:
                    raise ValueError(f"{self.url}{path}: {reason}") from None
                wait = _retry_after(error)
            except (OSError, HTTPException, BadAnswer) as error:
                reason = self._clean(f"{type(error).__name__}: {error}")
            reasons.append(reason)
            backoff = min(30.0, self.first_wait * 2**attempt) * jitter.uniform(0.5, 1.0)
            if attempt + 1 == self.attempts or self.stopped.wait(max(wait, backoff)):
                break
        raise ValueError(
            f"{self.url}{path}: gave up after {len(reasons)} tries; the last: {reasons[-1]}. What was sampled so far "
            "is kept: start the same command again when the server answers"
        )

    def _exchange(self, path: str, body: Mapping[str, Any] | None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        end = time.monotonic() + self.timeout
        with self._opener.open(request, timeout=self.timeout) as response:
            received = bytearray()
            while block := response.read1(1 << 16):
                received += block
                if len(received) > _MOST_BYTES:
                    raise BadAnswer(f"the answer is longer than {_MOST_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError(f"no whole answer within {self.timeout:g} s")
            return bytes(received)

    def _http_reason(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read(2000).decode("utf-8", "replace")
        except (OSError, HTTPException):
            text = ""
        return self._clean(f"HTTP {error.code} {error.reason}: {' '.join(text.split())[:300]}")

    def _clean(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _parsed(received: bytes) -> Any:
    try:
        return json.loads(received)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"not JSON: {error}") from None


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the server asks to wait, at most 60; 0 when it does not say so in seconds."""
    stated = error.headers.get("Retry-After", "")
    return min(60.0, float(stated)) if stated.isdigit() else 0.0
