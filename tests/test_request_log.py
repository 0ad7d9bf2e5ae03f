"""One JSON line per request, without its texts, that no caller can forge."""

import json
import logging
import re
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from serving._items import Answer, Choice
from serving._request_log import RequestLog, RequestRecord, log_as_json, texts_wanted

TEXTS = {"prompt": "secret prompt", "answer": "secret answer"}


def write(record, texts=False):
    stream = StringIO()
    RequestLog(stream, texts).write(record)
    return stream.getvalue()


def test_a_line_tells_what_is_known_and_leaves_out_the_rest():
    record = RequestRecord(id="a1", route="/generate", tenant="acme", status=200, queue_ms=1.23456)
    line = json.loads(write(record))
    assert line["time"].endswith("Z")
    del line["time"]
    known = {"id": "a1", "route": "/generate", "tenant": "acme", "status": 200, "queue_ms": 1.235}
    assert line == {"kind": "request", "stream": False, **known}


def test_texts_stay_out_unless_they_are_switched_on():
    assert "secret" not in write(RequestRecord(**TEXTS))
    told = json.loads(write(RequestRecord(**TEXTS), texts=True))
    assert {name: told[name] for name in TEXTS} == TEXTS


@pytest.mark.parametrize("value", [None, "", "0", "true", "yes"])
def test_only_one_value_switches_texts_on(value):
    environment = {} if value is None else {"STILLHOUSE_LOG_TEXT": value}
    assert not texts_wanted(environment)
    assert texts_wanted({"STILLHOUSE_LOG_TEXT": "1"})


@pytest.mark.parametrize(
    "tenant",
    ["x\n{}", "x\r\n", 'a"}\n{"kind": "request"', "\x1b[2J", "\u2028", "\ud800", "\x85", "\x00"],
)
def test_nothing_that_a_caller_chooses_begins_a_new_line(tenant):
    text = write(RequestRecord(tenant=tenant, key_id=tenant))
    assert text.endswith("}\n")
    assert text[:-1].isprintable()
    assert text.isascii()
    assert json.loads(text)["tenant"] == tenant


def test_what_a_caller_chooses_is_cut_and_a_digest_is_short():
    line = json.loads(write(RequestRecord(tenant="x" * 10_000, model_digest="0123456789abcdef")))
    assert len(line["tenant"]) == 128
    assert line["model_digest"] == "0123456789ab"


def test_a_record_takes_its_figures_from_the_answers():
    choices = [Choice(text="secret", finish_reason="length", completion_tokens=n) for n in (2, 3)]
    first = Answer(id="a", choices=choices, prompt_tokens=5, queue_s=0.25, compute_s=0.5)
    second = Answer(id="b", choices=choices[:1], prompt_tokens=4, queue_s=0.1, compute_s=1.0)
    record = RequestRecord()
    record.note([first, second])
    assert (record.prompt_tokens, record.completion_tokens) == (9, 7)
    assert (record.queue_ms, record.compute_ms) == (250.0, 1000.0)
    assert record.finish_reason == "length"
    assert "secret" not in write(record)


def test_the_document_names_every_field():
    text = (Path(__file__).parent.parent / "docs" / "operating.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", text.partition("## Log")[2]))
    assert {field.name for field in fields(RequestRecord)} <= told


@pytest.fixture
def framework_log():
    """Of the loggers of BentoML and uvicorn, set up as BentoML does it in a worker."""
    stream, root = StringIO(), logging.getLogger()
    loggers = [root, logging.getLogger("bentoml"), logging.getLogger("uvicorn.error")]
    before = [(one.handlers, one.level, one.propagate) for one in loggers]
    handler = logging.StreamHandler(StringIO())
    for one in loggers:
        one.handlers, one.propagate = [handler], one.name != "bentoml"
    log_as_json(stream)
    yield stream
    for one, (one.handlers, level, one.propagate) in zip(loggers, before, strict=True):
        one.setLevel(level)


def test_an_exception_of_a_framework_is_told_without_what_it_quotes(framework_log):
    class Body(BaseModel):
        seconds: float

    try:
        Body(seconds="secret prompt")
    except ValidationError:
        logging.getLogger("bentoml.serve").exception("Exception on %s", "/x\nforged")
    (line,) = map(json.loads, framework_log.getvalue().splitlines())
    assert line["exception"] == "ValidationError"
    assert "test_request_log.py" in line["at"][0]
    assert (line["level"], line["logger"]) == ("error", "bentoml.serve")
    assert "secret" not in framework_log.getvalue()


def test_what_asyncio_adds_to_its_message_is_left_out(framework_log):
    message = "Task exception was never retrieved\nfuture: ValueError('secret prompt')"
    logging.getLogger("asyncio").error(message)
    assert json.loads(framework_log.getvalue())["message"] == "Task exception was never retrieved"


def test_errors_of_the_server_are_told_once(framework_log):
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n")
    assert framework_log.getvalue().count("ASGI") == 1
