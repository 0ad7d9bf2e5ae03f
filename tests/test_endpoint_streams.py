"""Streams of the endpoint engine: whole, in pieces, and broken."""

from dataclasses import replace

import pytest
from endpoint_predictors import predictors
from endpoint_server import (
    KEY,
    Reply,
    answers,
    endpoint_server,
    error,
    stream,
    told,
)

from serving.completion import Request


@pytest.fixture
def predictor_on(tmp_path, monkeypatch):
    """Makes a predictor of a server; it notes its pauses in `pauses` and takes none."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with predictors(tmp_path) as make:
        yield make


PIECES = ["The Eagle…", " «fish»\u2028", "line\x85 two", "", "\N{DOG FACE} é"]


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("end", ["usage and [DONE]", "finish reason"])
def test_a_stream_joins_to_the_answer(predictor_on, size, end):
    with endpoint_server(answers("".join(PIECES)), stream(PIECES, end, size)) as server:
        predictor = predictor_on(server)
        answer = predictor.answer([Request("fish")])[0]
        pieces = list(predictor.stream(Request("fish")))
    assert "".join(pieces) == answer.text
    assert pieces == [piece for piece in PIECES if piece]
    assert server.seen[1]["body"] == server.seen[0]["body"] | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_stream_is_on_the_account(predictor_on):
    with endpoint_server(stream(PIECES), stream(PIECES, "finish reason")) as server:
        predictor = predictor_on(server)
        list(predictor.stream(Request("fish")))
        assert (predictor.usage.completion_tokens, predictor.usage.unmetered) == (7, 0)
        list(predictor.stream(Request("fish")))
        assert (predictor.usage.completion_tokens, predictor.usage.unmetered) == (7, 1)


BROKEN = {
    "ends": stream(PIECES, "nothing"),
    "cut in an event": Reply(parts=[stream(PIECES, "nothing").parts[0] + b'data: {"cho']),
    "connection": replace(stream(PIECES, "nothing"), declared=99_999),
    "not JSON": Reply(parts=[stream(PIECES, "nothing").parts[0] + b"data: oops\n\n"]),
    "error": Reply(parts=[stream(PIECES, "nothing").parts[0] + b'data: {"error": "out"}\n\n']),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_stream_that_is_cut_in_the_middle_is_an_error_and_no_short_answer(predictor_on, reply):
    with endpoint_server(reply) as server:
        given = predictor_on(server).stream(Request("fish"))
        pieces = [next(given) for piece in PIECES if piece]
        line = told(lambda: next(given))
    assert "".join(pieces) == "".join(PIECES)
    assert line.startswith(f"{server.url}/chat/completions gave ")
    assert len(server.seen) == 1


def test_a_stream_that_fails_before_its_first_piece_is_asked_again(predictor_on):
    with endpoint_server(error(500), stream([], "nothing"), stream(PIECES)) as server:
        predictor = predictor_on(server)
        assert "".join(predictor.stream(Request("fish"))) == "".join(PIECES)
    assert predictor.usage.retries == 2


def test_an_empty_answer_is_an_empty_stream(predictor_on):
    with endpoint_server(stream([])) as server:
        assert list(predictor_on(server).stream(Request("fish"))) == []
