"""Asking an OpenAI-compatible server over HTTP: repeats, limits, and an account of what it cost.

What may pass by itself (429, 408, 5xx, broken connections, timeouts, answers that are no answers)
is asked again after a pause; anything else fails at once. A failure is one line: address, what came
back, what to do. Neither key nor prompt is ever in it, nor in a log.
"""

import json
import os
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

import httpx

from serving._endpoint_account import Account, Usage
from serving._endpoint_answers import (
    ADVICE,
    AttemptError,
    check_status,
    hide,
    parse_json,
    read_body,
    read_events,
    read_piece,
    token_counts,
)
from serving.endpoint_settings import EndpointSettings, estimate_cost
from serving.errors import StillhouseError

T = TypeVar("T")
Wait = Callable[[Event, float], object]
"""Pauses for so many seconds, or until the event is set."""

# Exponential backoff with full jitter: Brooker, "Exponential Backoff and Jitter", AWS, 2015.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
SHOWN = 200  # characters of a server's own words in an error


class RefusedError(StillhouseError):
    """The server says that it cannot take this request as it is (400 or 422)."""


class StoppedError(Exception):
    """Another request failed for good, so this one was not asked again."""


@dataclass
class _Meter:
    """What one attempt adds to the account."""

    deadline: float
    """When its answer must be complete [s, monotonic]; a stream may take longer."""
    taken: bool = False
    free: bool = False
    """Whether it cannot have cost anything: refused, or never sent."""
    tokens: tuple[int, int] | None = None


class EndpointClient:
    """One server, one pool of connections, one account; safe to use from several threads."""

    def __init__(self, settings: EndpointSettings, wait: Wait = Event.wait) -> None:
        """Read the key from its environment variable; nothing is sent yet.

        Raises:
            StillhouseError: the variable is not set, or holds what cannot be a key.
        """
        self._settings, self._wait = settings, wait
        self._base = settings.base_url.rstrip("/")
        self._account = Account(settings)
        self._key = read_key(settings)
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        self._http = httpx.Client(
            headers=headers,
            # Waiting for a connection of our own pool is no fault of the server's.
            timeout=httpx.Timeout(settings.timeout_s, pool=None),
            limits=httpx.Limits(max_connections=settings.concurrency),
            follow_redirects=False,  # a redirect could lead prompts and key to another server
            trust_env=self._base.startswith("https:"),  # no proxy reads what goes unencrypted
        )

    @property
    def usage(self) -> Usage:
        """The account as it stands; a snapshot."""
        return self._account.usage

    def limit_cost(self, usd: float) -> None:
        """Send nothing from now on that could lift the cost of all requests above `usd`."""
        self._account.limit(usd)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def get(self, route: str) -> dict[str, Any]:
        """The JSON object at `route`.

        Raises:
            StillhouseError: no such answer, in one line.
        """
        return self._repeat(route, lambda: self._fetch("GET", route, None), (), Event())

    def post(
        self,
        route: str,
        body: Mapping[str, Any],
        read: Callable[[dict[str, Any]], T],
        private: Sequence[str],
        stop: Event,
    ) -> T:
        """What `read` makes of the answer to `body`.

        Args:
            read: raises `AttemptError` for what is no answer.
            private: texts of the request that must not show up in an error.
            stop: set by another thread, it ends the repeats.

        Raises:
            StillhouseError: no answer, in one line; `RefusedError` where another request might do,
                `LimitError` where it could cost more than is left.
            StoppedError: `stop` was set before there was an answer.
        """
        return self._repeat(route, lambda: read(self._fetch("POST", route, body)), private, stop)

    def stream(self, route: str, body: Mapping[str, Any], private: Sequence[str]) -> Iterator[str]:
        """Pieces of one answer; asked again until the first has come.

        Raises:
            StillhouseError: no stream, or one that broke off after its first piece.
        """
        first, rest = self._repeat(route, lambda: self._begin(route, body), private, Event())
        try:
            with closing(rest):
                yield from first
                yield from rest
        except AttemptError as fault:
            raise self._error(route, fault, 1, private) from None

    def _begin(
        self, route: str, body: Mapping[str, Any]
    ) -> tuple[list[str], Generator[str, None, None]]:
        rest = self._pieces(route, body)
        first = next(rest, None)
        return ([] if first is None else [first]), rest

    def _pieces(self, route: str, body: Mapping[str, Any]) -> Generator[str, None, None]:
        ended = False
        with self._attempt("POST", route, body) as (response, meter):
            for data in read_events(response.iter_bytes()):
                if data == b"[DONE]":  # not every server says so
                    ended = True
                    break
                event = parse_json(data)
                meter.tokens = token_counts(event) or meter.tokens
                text, last = read_piece(event)
                ended = ended or last
                if text:
                    yield text
        if not ended:
            raise AttemptError("a stream that broke off", ADVICE[500])

    def _fetch(self, method: str, route: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        with self._attempt(method, route, body) as (response, meter):
            data = parse_json(read_body(response, meter.deadline))
            meter.tokens = token_counts(data)
            return data

    @contextmanager
    def _attempt(
        self, method: str, route: str, body: Mapping[str, Any] | None
    ) -> Iterator[tuple[httpx.Response, _Meter]]:
        """Send one request, give its response if that is a success, put it on the account."""
        timeout_s = self._settings.timeout_s
        content = None if body is None else json.dumps(body).encode("ascii")
        most_usd = self._most_usd(body, content)
        self._account.begin(most_usd)
        started = time.monotonic()
        meter = _Meter(deadline=started + timeout_s)
        try:
            with self._http.stream(method, self._base + route, content=content) as response:
                meter.free = not response.is_success
                check_status(response, meter.deadline)
                meter.taken = method == "POST"
                yield response, meter
        except httpx.TimeoutException as error:
            meter.free = meter.free or isinstance(error, httpx.ConnectTimeout)
            advice = "Raise timeout_s or lower concurrency in endpoint.json."
            raise AttemptError(f"no answer within {timeout_s:g} s", advice) from None
        except httpx.ConnectError as error:
            meter.free = True
            advice = "Start the server, or correct base_url in endpoint.json."
            raise AttemptError("no connection", advice, words=str(error)) from None
        except httpx.HTTPError as error:  # its text may quote a header, and so the key
            raise AttemptError(
                f"a broken connection ({type(error).__name__})", ADVICE[500]
            ) from None
        finally:
            seconds = time.monotonic() - started
            self._account.end(most_usd, meter.tokens, seconds, taken=meter.taken, free=meter.free)

    def _most_usd(self, body: Mapping[str, Any] | None, content: bytes | None) -> float:
        """The most that a request can cost: a tokenizer makes no more tokens than text has bytes.

        The bytes of the JSON around the text stand for what a server's chat template adds.
        """
        if body is None or content is None:
            return 0.0
        answers = body.get("n", 1) * body.get(self._settings.length_field, 0)
        return estimate_cost(len(content), answers, self._settings)

    def _repeat(
        self, route: str, attempt: Callable[[], T], private: Sequence[str], stop: Event
    ) -> T:
        waited, number = 0.0, 0
        while not stop.is_set():
            if number:
                self._account.count_retry()
            try:
                return attempt()
            except AttemptError as fault:
                longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number)
                pause = max(fault.after_s, random.uniform(0, longest))  # noqa: S311 - no secret
                number += 1
                enough = number > self._settings.max_retries
                if enough or not fault.again or waited + pause > self._settings.max_wait_s:
                    raise self._error(route, fault, number, private) from None
            waited += pause
            self._wait(stop, pause)
        raise StoppedError

    def _error(
        self, route: str, fault: AttemptError, attempts: int, private: Sequence[str]
    ) -> StillhouseError:
        words = hide(hide(fault.words, private, 8), [self._key], 4)[:SHOWN]
        quoted = f' ("{words}")' if words else ""
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        kind = RefusedError if fault.status in (400, 422) else StillhouseError
        return kind(f"{self._base}{route} gave {fault.found}{quoted}{tried}. {fault.advice}")


def read_key(settings: EndpointSettings) -> str:
    """The key from its environment variable, "" for a server without keys."""
    name = settings.api_key_env
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise StillhouseError(f"endpoint.json wants a key from {name}, which is not set. Set it.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise StillhouseError(f"{name} holds characters that no key has. Set it to the key alone.")
    return key
