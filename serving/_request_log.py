"""The log: one JSON line per request on stderr, and the frameworks' lines as JSON beside it.

No line holds a prompt, a context, slots or an answer unless STILLHOUSE_LOG_TEXT=1, and then in the
fields `prompt` and `answer` alone. Frameworks would not keep to that: BentoML logs a refused body
with pydantic's message, which quotes the value, and prints paths with their line breaks. So of an
exception only its kind and where it was raised are told, and JSON leaves no character to forge a
line with.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from serving._items import Answer, Refusal
from serving._metric_series import Outcome

TEXT_SWITCH = "STILLHOUSE_LOG_TEXT"
LONGEST = 128
"""Of a value that a caller chooses, such as an id [characters]."""
LONGEST_MESSAGE = 2000
FRAMES = 12
"""Innermost places of an exception that are told."""
FRAMEWORKS = ("", "bentoml", "uvicorn.error", "circus")
"""Loggers with a handler of their own, the root first."""
DIGEST_CHARACTERS = 12


@dataclass
class RequestRecord:
    """What is known of a request when it has ended; every part that learns of it fills in."""

    id: str = ""
    route: str = "other"
    tenant: str | None = None
    key_id: str | None = None
    """Name of the API key, never the key."""
    model: str | None = None
    status: int | None = None
    """None where the caller left before there was one."""
    refusal: Refusal | None = None
    outcome: Outcome | None = None
    stream: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None
    finish_reason: str | None = None
    rung: str | None = None
    """Of the cascade: whose answer it is."""
    source: str | None = None
    """The cache that it is from; miss or off: it was made."""
    cost_usd: float | None = None
    model_digest: str | None = None
    """Its first characters are told."""
    trace_id: str | None = None
    prompt: str | None = None
    """Told only where texts are switched on."""
    answer: str | None = None

    def note(self, answers: Sequence[Answer]) -> None:
        """What came of the request's prompts; the longest times where there are several."""
        choices = [choice for answer in answers for choice in answer.choices]
        self.prompt_tokens = sum(answer.prompt_tokens for answer in answers)
        self.completion_tokens = sum(choice.completion_tokens for choice in choices)
        self.queue_ms = 1000.0 * max((answer.queue_s for answer in answers), default=0.0)
        self.compute_ms = 1000.0 * max((answer.compute_s for answer in answers), default=0.0)
        self.finish_reason = choices[0].finish_reason if choices else None
        self.answer = "\n".join(choice.text for choice in choices)


TEXTS = ("prompt", "answer")


class RequestLog:
    """Writes a line per request."""

    def __init__(self, stream: TextIO | None = None, texts: bool = False) -> None:
        """`texts` lets prompts and answers into the log."""
        self._stream = stream or sys.stderr
        self._texts = texts

    def write(self, record: RequestRecord) -> None:
        """One line; fields that nobody filled in are left out."""
        line: dict[str, Any] = {"time": _timestamp(time.time()), "kind": "request"}
        for name, value in vars(record).items():
            if value is not None and (self._texts or name not in TEXTS):
                line[name] = _plain(name, value)
        self._stream.write(json.dumps(line) + "\n")  # in one piece: other threads write too
        self._stream.flush()


class JsonFormatter(logging.Formatter):
    """A framework's record as a JSON line that quotes nothing of a request's body."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message, and of an exception its kind and places."""
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "kind": "log",
            "level": record.levelname.lower(),
            "logger": record.name,
            # asyncio tells an exception's text in the lines after the first
            "message": record.getMessage().partition("\n")[0][:LONGEST_MESSAGE],
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            places = traceback.extract_tb(record.exc_info[2])[-FRAMES:]
            line["at"] = [f"{place.filename}:{place.lineno} {place.name}" for place in places]
        return json.dumps(line)


def log_as_json(stream: TextIO | None = None) -> None:
    """Turn the handlers that BentoML has set up to JSON on stderr; call it as the service starts.

    BentoML configures logging when a worker starts, before it loads the service.
    """
    for name in FRAMEWORKS:
        logger = logging.getLogger(name)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(stream or sys.stderr)
                handler.setFormatter(JsonFormatter())
                logger.propagate = False  # BentoML tells uvicorn's errors twice, the root's too


def texts_wanted(environment: Mapping[str, str]) -> bool:
    """Whether prompts and answers may be logged; "1" and nothing else says so."""
    return environment.get(TEXT_SWITCH) == "1"


def _plain(name: str, value: Any) -> Any:
    """A value as it is told: short where a caller chooses it, rounded where it is a time."""
    if name == "model_digest":
        return str(value)[:DIGEST_CHARACTERS]
    if isinstance(value, str) and name not in TEXTS:
        return value[:LONGEST]
    if name == "cost_usd":
        return round(value, 9)
    return round(value, 3) if isinstance(value, float) else value


def _timestamp(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    whole, part = divmod(int(seconds * 1000.0), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{part:03d}Z"
