"""Which model answers behind which OpenAI-compatible server, how it is asked, and what it costs.

`endpoint.json` is all that a model folder of the `endpoint` engine holds beside its contract. The
key stands nowhere in it: only the name of the environment variable that has it, so a folder can be
cached, logged and shown. Over plain http, a key or a prompt goes to this machine alone.
"""

import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import httpx

from serving.errors import StillhouseError

SETTINGS_NAME = "endpoint.json"
Api = Literal["chat", "completions"]
LengthField = Literal["max_tokens", "max_completion_tokens"]


@dataclass(frozen=True)
class EndpointSettings:
    """An OpenAI-compatible server and one of its models."""

    base_url: str
    """Address up to the version, e.g. https://api.example.com/v1; redirects are not followed."""
    model: str
    """The model's name on that server."""
    api: Api
    """chat: the prompt is a user message, the chat template is the server's business;
    completions: the prompt is the text that the model goes on writing."""
    price_per_1k_prompt_tokens_usd: float
    """Price of reading [USD per 1000 tokens]; 0 for a server of your own."""
    price_per_1k_completion_tokens_usd: float
    """Price of writing [USD per 1000 tokens]."""
    revision: str | None = None
    """Which version of the model the server holds, for the record; not sent."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null for a server without keys."""
    timeout_s: float = 60.0
    """Longest time of one attempt, for a stream the longest silence [s]."""
    max_retries: int = 5
    """Attempts after the first that failed in a way that may pass."""
    max_wait_s: float = 120.0
    """Longest time that one request waits between its attempts, all pauses together [s]."""
    concurrency: int = 4
    """Requests under way at once."""
    system: str | None = None
    """System message before the prompt (chat only)."""
    logprobs: bool = False
    """Whether to ask for token log-probabilities; not every server gives them."""
    length_field: LengthField = "max_tokens"
    """Field in which the server takes the longest answer (max_completion_tokens: chat only)."""
    allow_insecure_http: bool = False
    """Whether prompts may leave this machine unencrypted; a key never does."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EndpointSettings":
        """Read settings as endpoint.json holds them.

        Raises:
            StillhouseError: unknown or missing keys, wrong values, or values that contradict each
                other; all in one line, without anything that could be a key.
        """
        known = {item.name: item.default is MISSING for item in fields(cls)}
        problems = [f"{name!r} is unknown" for name in data if name not in known]
        problems += [f"{name} is missing" for name in known if known[name] and name not in data]
        for name, (expected, accepts) in _RANGES.items():
            if name in data and not accepts(data[name]):
                found = "" if _may_be_secret(name, data[name]) else f", not {data[name]!r}"
                problems.append(f"{name} must be {expected}{found}")
        problems = problems or _contradictions(cls(**data))
        if problems:
            raise StillhouseError(
                f"wrong endpoint settings: {'; '.join(problems)}. "
                f"Known: {', '.join(sorted(known))}; correct them where the endpoint is described."
            )
        return cls(**data)


def write_settings(folder: Path, settings: EndpointSettings) -> None:
    """Write `folder`/endpoint.json; the contract comes after it (serving/contract.py).

    Raises:
        StillhouseError: the settings are wrong (see `EndpointSettings.from_dict`).
    """
    content = asdict(EndpointSettings.from_dict(asdict(settings)))
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / SETTINGS_NAME).write_text(text, encoding="utf-8")


def read_settings(folder: Path) -> EndpointSettings:
    """Read `folder`/endpoint.json.

    Raises:
        StillhouseError: no such file, no JSON object, or wrong settings.
    """
    path = folder / SETTINGS_NAME
    again = "Run the stage that makes this model again."
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StillhouseError(f"{folder} has no {SETTINGS_NAME}. {again}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StillhouseError(f"{path} is not JSON ({error}). {again}") from None
    if not isinstance(data, dict):
        raise StillhouseError(f"{path} holds a {type(data).__name__}, not settings. {again}")
    return EndpointSettings.from_dict(data)


def estimate_cost(prompt_tokens: int, completion_tokens: int, settings: EndpointSettings) -> float:
    """What so many tokens cost at the settings' prices [USD]."""
    return (
        prompt_tokens * settings.price_per_1k_prompt_tokens_usd
        + completion_tokens * settings.price_per_1k_completion_tokens_usd
    ) / 1000


def identity(settings: EndpointSettings) -> dict[str, Any]:
    """What decides an answer; not how it is fetched, nor what it costs."""
    names = ("base_url", "model", "revision", "api", "system", "logprobs", "length_field")
    return {name: getattr(settings, name) for name in names}


def _is_address(value: Any) -> bool:
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, TypeError):
        return False
    plain = not (url.userinfo or url.query or url.fragment)
    return url.scheme in ("http", "https") and bool(url.host) and plain


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def _may_be_secret(name: str, value: Any) -> bool:
    """A key is easily pasted where its variable's name, or an address, belongs."""
    return name == "api_key_env" or (name == "base_url" and bool(re.search("[@?#]", str(value))))


def _contradictions(settings: EndpointSettings) -> list[str]:
    problems = []
    url = httpx.URL(settings.base_url)
    if url.scheme == "http" and not _is_loopback(url):
        if not settings.allow_insecure_http:
            problems.append(
                f"{settings.base_url} would send prompts unencrypted (use https, or say "
                f"allow_insecure_http: true for a network you trust)"
            )
        if settings.api_key_env:
            problems.append(f"{settings.base_url} would send a key unencrypted (use https)")
    if settings.api == "completions":
        if settings.system is not None:
            problems.append("system goes with api chat (put the text into the prompt template)")
        if settings.length_field != "max_tokens":
            problems.append("api completions knows the length_field max_tokens only")
    return problems


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_variable(value: Any) -> bool:
    return value is None or (
        isinstance(value, str) and re.fullmatch("[A-Z_][A-Z0-9_]*", value) is not None
    )


def _not_negative(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "base_url": ("an http or https address without user, query and fragment", _is_address),
    "model": ("a name", _is_text),
    "api": (f"one of {', '.join(get_args(Api))}", lambda value: value in get_args(Api)),
    "price_per_1k_prompt_tokens_usd": ("a number from 0", _not_negative),
    "price_per_1k_completion_tokens_usd": ("a number from 0", _not_negative),
    "revision": ("a text or null", lambda value: value is None or _is_text(value)),
    "api_key_env": ("the NAME of an environment variable in capitals, or null", _is_variable),
    "timeout_s": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "max_retries": ("a whole number from 0 to 20", _whole(0, 20)),
    "max_wait_s": ("a number from 0", _not_negative),
    "concurrency": ("a whole number from 1 to 256", _whole(1, 256)),
    "system": ("a text or null", lambda value: value is None or _is_text(value)),
    "logprobs": ("true or false", _is_bool),
    "length_field": (
        f"one of {', '.join(get_args(LengthField))}",
        lambda value: value in get_args(LengthField),
    ),
    "allow_insecure_http": ("true or false", _is_bool),
}
