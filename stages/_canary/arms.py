"""The two arms of a canary as they are asked: addresses, key, what their model must be."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from serving._cascade.teacher_address import is_elsewhere
from serving.errors import StillhouseError
from stages._canary.series import Key, Meter, Seen, Tally, UnreadableError, read_series

KEY = "STILLHOUSE_CANARY_KEY"
REQUEST_S = 10.0
SHOWN = 12
"""Characters of a digest that a service shows."""


@dataclass(frozen=True)
class Expected:
    """One side of the comparison, as the release's records name it."""

    model_sha256: str
    image: str | None = None


@dataclass(frozen=True)
class Reading:
    """One look at one arm."""

    counted: Tally
    """Since the first reading."""
    under_way: int
    """Requests that have begun and not ended [count]."""


class Arm:
    """All replicas of one side."""

    def __init__(self, name: str, urls: Sequence[str], expected: Expected) -> None:
        """`urls`: of each replica, since a balancer would show another one at every look."""
        self.name, self.urls, self.expected = name, tuple(urls), expected
        self._meters: dict[str, Meter] = {}

    @property
    def restarts(self) -> int:
        """Of all replicas since the start [count]."""
        return sum(meter.restarts for meter in self._meters.values())

    def read(self, seen: Mapping[str, Seen]) -> Reading:
        """All replicas together.

        Args:
            seen: of each address.

        Raises:
            StillhouseError: another model than was expected.
        """
        total: Counter[Key] = Counter()
        for url in self.urls:
            self._check_model(url, seen[url].model)
            tally = seen[url].tally
            self._meters.setdefault(url, Meter(tally)).read(tally)
            total.update(self._meters[url].counted)
        return Reading(total, sum(seen[url].under_way for url in self.urls))

    def _check_model(self, url: str, shown: str | None) -> None:
        wanted = self.expected.model_sha256[:SHOWN]
        if shown != wanted:
            raise StillhouseError(
                f"the {self.name} at {url} serves the model {shown}, expected {wanted}. Deploy the "
                f"one that is meant, or name the other with --{self.name}-model."
            )


class Asking:
    """Asks all replicas of both arms at once, so that they are read at nearly one moment."""

    def __init__(self, arms: Sequence[Arm], key: str | None) -> None:
        """`key` goes to every address."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._arms = arms
        self._client = httpx.Client(trust_env=False, timeout=REQUEST_S, headers=headers)
        self._pool = ThreadPoolExecutor(sum(len(arm.urls) for arm in arms))

    def close(self) -> None:
        """Let the connections go."""
        self._pool.shutdown()
        self._client.close()

    def look(self) -> dict[str, Seen]:
        """What each address shows.

        Raises:
            UnreadableError: one cannot be reached, refuses, or has no such series.
        """
        urls = [url for arm in self._arms for url in arm.urls]
        return dict(zip(urls, self._pool.map(self._look, urls), strict=True))

    def _look(self, url: str) -> Seen:
        text = self._get(f"{url}/metrics").text
        try:
            seen = read_series(text)
        except UnreadableError as error:
            raise UnreadableError(f"{url}: {error}") from None
        if seen.model is not None:
            return seen
        return replace(seen, model=_student(self._get(f"{url}/page.json").json()))

    def _get(self, url: str) -> httpx.Response:
        try:
            response = self._client.get(url)
        except httpx.HTTPError as error:
            raise UnreadableError(
                f"{url} cannot be read ({type(error).__name__}). Is the service up?"
            ) from None
        if response.status_code != httpx.codes.OK:
            raise UnreadableError(
                f"{url} answered {response.status_code}, expected 200. From another machine it "
                f"needs a key whose paths name /metrics and /page.json, in {KEY} or --key-file."
            )
        return response


def _student(facts: dict[str, Any]) -> str | None:
    """The digest that a service's page names."""
    return next((one["digest"] for one in facts["models"] if one["rung"] == "student"), None)


def check_urls(urls: Sequence[str], key: str | None, *, insecure: bool) -> list[str]:
    """The addresses without a slash at their end.

    Raises:
        StillhouseError: no address, one that stands twice, or a key that would travel unencrypted.
    """
    plain = [url.rstrip("/") for url in urls]
    for url in plain:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise StillhouseError("an address must be http://host:port or https://host:port.")
        if key and parts.scheme == "http" and is_elsewhere(url) and not insecure:
            raise StillhouseError(
                f"the key would go to {parts.hostname} unencrypted. Use https, or --insecure in a "
                f"network that you trust."
            )
    if len(set(plain)) < len(plain):
        raise StillhouseError("an address stands twice: each replica belongs to one arm.")
    return plain


def read_key(file: Path | None) -> str | None:
    """The services' key, of a file or the environment; None where there is none.

    Raises:
        StillhouseError: the file is missing, or its content is no key.
    """
    if file is not None and not file.is_file():
        raise StillhouseError(f"{file} is missing. Name a file that holds the key alone.")
    key = (file.read_text(encoding="utf-8") if file else os.environ.get(KEY, "")).strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise StillhouseError("the key holds characters that no key has. Set it again.")
    return key or None
