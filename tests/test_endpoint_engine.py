"""The endpoint engine against a real server on loopback: what it sends, what it makes of every
answer, what it pays, and what it says when the server fails."""

import logging
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from socket import socket
from threading import Event, Thread

import httpx
import pytest
from endpoint_server import (
    KEY,
    SETTINGS,
    Reply,
    answers,
    as_json,
    completions,
    endpoint_server,
    error,
    stream,
    told,
)
from safetensors.torch import load_file, save_file
from tiny_models import TEMPLATE, tiny_tokenizer, write_model
from toy import SCHEMA, example

from serving._endpoint import Usage
from serving._endpoint_answers import hide
from serving.completion import Request
from serving.contract import Contract, read_contract, write_contract
from serving.endpoint_engine import EndpointPredictor
from serving.endpoint_settings import (
    estimate_cost,
    write_settings,
)
from serving.predictor import load

ROOT = Path(__file__).parent.parent
SECRET = "name[The Eagle], phone[+44 1223 495 123]"
CONTRACT = Contract(
    engine="endpoint",
    prompt_template="Say: {prompt}",
    slot_schema=None,
    limits={"max_prompt_chars": 200},
    decoding={"max_new_tokens": 24},
    params_hash="0" * 64,
    data_hash="0" * 64,
)
SAMPLE = {"max_new_tokens": 24, "method": "sample", "temperature": 0.7, "top_p": 0.9, "seed": 3}
LOGPROBS = {"logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}}


@pytest.fixture
def predictor_on(tmp_path, monkeypatch):
    """Makes a predictor from a folder; it notes its pauses in `pauses` and takes none."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    made = []

    def make(server, contract=CONTRACT, **changes):
        folder = tmp_path / f"model{len(made)}"
        folder.mkdir()
        write_settings(folder, replace(SETTINGS, base_url=server.url, **changes))
        write_contract(folder, contract)
        pauses = []
        predictor = EndpointPredictor(
            folder, read_contract(folder), wait=lambda stop, seconds: pauses.append(seconds)
        )
        predictor.pauses = pauses
        made.append(predictor)
        return predictor

    yield make
    for predictor in made:
        predictor.close()


# --- Loading -------------------------------------------------------------------------------------


def test_a_folder_is_loaded_without_asking_the_server(tmp_path):
    with endpoint_server() as server:
        write_settings(tmp_path, replace(SETTINGS, base_url=server.url))
        write_contract(tmp_path, CONTRACT)
        predictor = load(tmp_path)
        assert server.seen == []
        assert predictor.answer([Request("fish")])[0].text == "echo of Say: fish"
        predictor.close()


def test_torch_is_not_needed():
    program = "import sys, serving.endpoint_engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        (replace(CONTRACT, decoding={"max_new_tokens": 5, "method": "beam", "beams": 3}), "sample"),
        (replace(CONTRACT, prompt_template="Say it"), "needs {prompt} exactly once"),
        (replace(CONTRACT, decoding={"max_tokens": 5}), "'max_tokens' is unknown"),
    ],
    ids=["beam", "template", "decoding"],
)
def test_a_contract_that_cannot_work_is_refused(tmp_path, contract, said):
    write_settings(tmp_path, SETTINGS)
    assert said in told(lambda: EndpointPredictor(tmp_path, contract))


@pytest.mark.parametrize("key", [None, " ", "sk\n12", "sk 12", "schlüssel"])
def test_a_key_that_is_not_set_or_no_key_is_told_without_it(tmp_path, monkeypatch, key):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    if key:
        monkeypatch.setenv("TEACHER_KEY", key)
    write_settings(tmp_path, replace(SETTINGS, api_key_env="TEACHER_KEY"))
    line = told(lambda: EndpointPredictor(tmp_path, CONTRACT))
    assert "TEACHER_KEY" in line and "sk" not in line and "schl" not in line


# --- What is sent --------------------------------------------------------------------------------


def test_a_chat_request_is_the_rendered_prompt_as_a_user_message(predictor_on):
    contract = replace(CONTRACT, prompt_template="{context}: {prompt}!")
    with endpoint_server() as server:
        settings = {"system": "Be brief.", "api_key_env": "TEACHER_KEY", "logprobs": True}
        predictor = predictor_on(server, contract, **settings)
        predictor.answer([Request("{context} {0} “fish”", context="{prompt}")])
    (asked,) = server.seen
    assert asked["path"] == "/v1/chat/completions"
    assert asked["headers"]["authorization"] == f"Bearer {KEY}"
    assert asked["body"] == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "{prompt}: {context} {0} “fish”!"},
        ],
        "max_tokens": 24,
        "temperature": 0,
        "logprobs": True,
    }


def test_a_completions_request_is_the_rendered_prompt_as_text(predictor_on):
    with endpoint_server(completions("It is.", logprobs={"token_logprobs": [-1, -3]})) as server:
        predictor = predictor_on(server, api="completions", logprobs=True)
        completion = predictor.answer([Request("fish \ud83d")])[0]
    assert server.seen[0]["path"] == "/v1/completions"
    assert server.seen[0]["body"]["prompt"] == "Say: fish \ud83d"
    assert server.seen[0]["body"]["logprobs"] == 1
    assert "authorization" not in server.seen[0]["headers"]
    assert (completion.text, completion.mean_logprob, completion.min_logprob) == ("It is.", -2, -3)


def test_a_sample_has_its_settings_and_a_seed_of_its_own_request(predictor_on):
    with endpoint_server() as server:
        predictor = predictor_on(server, replace(CONTRACT, decoding=SAMPLE), concurrency=1)
        predictor.answer([Request("fish"), Request("curry"), Request("fish")])
    bodies = [asked["body"] for asked in server.seen]
    assert {(body["temperature"], body["top_p"]) for body in bodies} == {(0.7, 0.9)}
    assert bodies[0]["seed"] == bodies[2]["seed"] != bodies[1]["seed"]


@pytest.mark.parametrize(
    ("prompt", "said"), [("", "0 characters"), ("x" * 201, "takes 1 to 200. Shorten")]
)
def test_nothing_is_sent_if_a_prompt_cannot_be(predictor_on, prompt, said):
    with endpoint_server() as server:
        predictor = predictor_on(server)
        assert said in told(lambda: predictor.answer([Request("fish"), Request(prompt)]))
    assert server.seen == []


# --- What is made of an answer -------------------------------------------------------------------


def test_answers_keep_the_order_of_their_requests(predictor_on):
    requests = [Request(f"pub {number} …") for number in range(40)]
    with endpoint_server() as server:
        predictor = predictor_on(server, concurrency=8)
        found = predictor.answer(requests)
        assert predictor.answer([]) == []
    assert [c.text for c in found] == [f"echo of Say: pub {number} …" for number in range(40)]


def test_each_answer_is_given_as_soon_as_it_is_there(predictor_on):
    with endpoint_server() as server:
        release = Event()
        server.replies["Say: slow"] = replace(answers("at last"), hold=release)
        each = predictor_on(server).answer_each([Request("slow"), Request("quick")])
        assert next(each)[0] == 1
        release.set()
        assert next(each)[0] == 0
        assert list(each) == []


def test_counts_reason_and_logprobs_are_the_server_s(predictor_on):
    with endpoint_server(answers("one two", **LOGPROBS), answers("x", finish_reason="length")) as s:
        predictor = predictor_on(s, concurrency=1)
        first, second = predictor.answer([Request("fish"), Request("fish")])
    assert (first.prompt_tokens, first.completion_tokens, first.finish_reason) == (5, 2, "stop")
    assert (first.mean_logprob, first.min_logprob, first.confidence) == (-1.0, -1.5, None)
    assert (second.finish_reason, second.mean_logprob, second.min_logprob) == ("length", None, None)


@pytest.mark.parametrize("reply", [answers("x", finish_reason="content_filter"), answers(None)])
def test_an_answer_that_was_cut_is_never_called_finished(predictor_on, reply):
    script = [reply, answers(None, finish_reason="length")]
    with endpoint_server(*script) as server:
        completion = predictor_on(server).answer([Request("fish")])[0]
    assert completion.finish_reason == "length"


def test_an_answer_without_token_counts_is_an_error_and_not_a_zero(predictor_on):
    with endpoint_server(answers("x", usage=False)) as server:
        predictor = predictor_on(server)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert "without token counts (usage)" in line and "use a server that" in line
    assert len(server.seen) == 1 and predictor.usage.unmetered == 1


# --- Several answers -----------------------------------------------------------------------------


def test_several_answers_are_one_request_and_their_tokens_add_up(predictor_on):
    script = [answers("one two three four", "one", "one", "one two")]
    with endpoint_server(*script) as server:
        predictor = predictor_on(server, replace(CONTRACT, decoding=SAMPLE))
        (found,) = predictor.answer_many([Request("fish")], 4)
    assert [server.seen[0]["body"]["n"], len(server.seen)] == [4, 1]
    assert [c.text for c in found] == ["one two three four", "one", "one two"]
    assert found[0].completion_tokens > found[2].completion_tokens > 0
    assert sum(c.completion_tokens for c in found) + found[1].completion_tokens in (7, 8, 9)
    assert predictor.usage.completion_tokens == 8


@pytest.mark.parametrize(
    "replies",
    [[error(400, "n must be 1"), answers("a")], [answers("a")]],
    ids=["refused", "ignored"],
)
def test_a_server_that_has_no_n_is_asked_several_times_with_other_seeds(predictor_on, replies):
    with endpoint_server(*replies, answers("b"), answers("a")) as server:
        predictor = predictor_on(server, replace(CONTRACT, decoding=SAMPLE), concurrency=1)
        found = predictor.answer_many([Request("fish"), Request("curry")], 3)
    assert [[c.text for c in many] for many in found] == [["a", "b"], ["echo of Say: curry"]]
    bodies = [asked["body"] for asked in server.seen]
    assert [body.get("n", 1) for body in bodies] == [3] + [1] * (len(replies) + 4)
    seeds = [body["seed"] for body in bodies[-6:]]
    assert [b - a for a, b in pairwise(seeds[:3])] == [b - a for a, b in pairwise(seeds[3:])]
    assert len({*seeds}) == 6


def test_a_prompt_the_server_refuses_says_nothing_about_n(predictor_on):
    with endpoint_server(error(400), error(400)) as server:
        predictor = predictor_on(server, replace(CONTRACT, decoding=SAMPLE))
        told(lambda: predictor.answer_many([Request("fish")], 3))
        predictor.answer_many([Request("fish")], 3)
    assert server.seen[-1]["body"]["n"] == 3


def test_the_likeliest_answer_is_first(predictor_on):
    shared = {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    scored = [("a", -3.0), ("b", -1.0)]
    choices = [
        {"text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [score]}}
        for text, score in scored
    ]
    with endpoint_server(as_json({"choices": choices} | shared)) as server:
        predictor = predictor_on(server, replace(CONTRACT, decoding=SAMPLE))
        (found,) = predictor.answer_many([Request("fish")], 2)
    assert [c.text for c in found] == ["b", "a"]


def test_the_answer_with_the_fewest_slot_errors_wins(predictor_on):
    pub = example("The Eagle", "fish", "no")
    contract = replace(CONTRACT, slot_schema=SCHEMA, decoding=SAMPLE | {"answers": 2})
    texts = ("The Eagle serves fish.", pub["references"][0])
    with endpoint_server(answers(*texts), answers(*texts)) as server:
        predictor = predictor_on(server, contract)
        request = Request(pub["prompt"])
        assert predictor.answer([request])[0].text == texts[1]
        assert list(predictor.stream(request)) == [texts[1]]


def test_greedy_has_one_answer(predictor_on):
    with endpoint_server() as server:
        predictor = predictor_on(server)
        assert "2 answers" in told(lambda: predictor.answer_many([Request("fish")], 2))


# --- Faults --------------------------------------------------------------------------------------

PASSING = {
    "500": error(500),
    "503 page": Reply(b"<html>busy</html>", 503),
    "429 at once": error(429, retry_after="0"),
    "408": error(408),
    "not JSON": Reply(b"oops"),
    "not UTF-8": Reply(b'{"choices": "\xff'),
    "deep": Reply(b"[" * 100_000),
    "a list": as_json([1]),
    "no choices": as_json({"choices": [], "usage": {}}),
    "an error called 200": as_json({"error": {"message": "overloaded"}}),
    "no message": as_json({"choices": [{}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    "no text": answers(None),
    "no reason": answers("x", finish_reason=None),
    "odd logprobs": answers("x", logprobs={"content": [{"logprob": "low"}]}),
    "logprobs NaN": answers("x", logprobs={"content": [{"logprob": float("nan")}]}),
    "cut off": Reply(parts=[b'{"choices"'], declared=500),
    "nothing": Reply(parts=[], declared=500),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_survived(predictor_on, fault):
    with endpoint_server(fault) as server:
        predictor = predictor_on(server)
        assert predictor.answer([Request("fish")])[0].text == "echo of Say: fish"
    assert (predictor.usage.requests, predictor.usage.retries) == (2, 1)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_is_told_in_one_line(predictor_on, fault):
    with endpoint_server(*[fault] * 3) as server:
        predictor = predictor_on(server)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert line.startswith(f"{server.url}/chat/completions gave ") and "after 3 attempts" in line
    assert len(server.seen) == 3
    assert fault.status == 200 or str(fault.status) in line


@pytest.mark.parametrize(
    "reply", [Reply(hold=Event()), Reply(parts=[], declared=9999, drip=True)], ids=["hang", "drip"]
)
def test_a_server_that_hangs_is_given_up(predictor_on, reply):
    with endpoint_server(reply, reply) as server:
        predictor = predictor_on(server, timeout_s=0.08, max_retries=1)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert "no answer within 0.08 s after 2 attempts. Raise timeout_s" in line


def test_a_server_that_is_not_there_is_told(predictor_on):
    with endpoint_server() as server:
        pass
    line = told(lambda: predictor_on(server).answer([Request("fish")]))
    assert "no connection" in line and "Start the server" in line


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_request_that_is_wrong_fails_at_once_with_the_server_s_words(predictor_on, status):
    with endpoint_server(error(status, "because\nof\x1b[1m this " * 40)) as server:
        line = told(lambda: predictor_on(server).answer([Request("fish")]))
    assert f"gave {status}" in line and "because of [1m this" in line
    assert len(server.seen) == 1


def test_a_redirect_is_not_followed(predictor_on):
    with (
        endpoint_server() as other,
        endpoint_server(
            Reply(status=307, headers={"location": other.url + "/chat/completions"})
        ) as server,
    ):
        predictor = predictor_on(server, api_key_env="TEACHER_KEY")
        assert "Redirects are not followed" in told(lambda: predictor.answer([Request("fish")]))
    assert other.seen == []


def test_no_proxy_reads_what_goes_unencrypted(predictor_on, monkeypatch):
    with endpoint_server() as proxy, endpoint_server() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        predictor_on(server).answer([Request("fish")])
    assert (len(server.seen), proxy.seen) == (1, [])


def test_pauses_grow_at_random_and_keep_to_what_the_server_asks(predictor_on):
    script = [error(500)] * 6 + [error(429, retry_after="40")]
    with endpoint_server(*script) as server:
        predictor = predictor_on(server, max_retries=8)
        predictor.answer([Request("fish")])
    assert len(predictor.pauses) == 7
    assert all(0 <= p <= 0.5 * 2**n for n, p in enumerate(predictor.pauses[:6]))
    assert len(set(predictor.pauses)) == 7 and predictor.pauses[6] == 40


def test_a_server_that_asks_for_too_long_a_pause_is_given_up(predictor_on):
    with endpoint_server(error(429, "later", retry_after="3600")) as server:
        predictor = predictor_on(server)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert 'gave 429 and asks to wait 3600 s ("later"). Lower concurrency' in line
    assert predictor.pauses == []


def test_all_pauses_together_keep_to_their_limit(predictor_on):
    with endpoint_server(*[error(503, retry_after="3")] * 9) as server:
        predictor = predictor_on(server, max_retries=9, max_wait_s=10.0)
        told(lambda: predictor.answer([Request("fish")]))
    assert predictor.pauses == [3, 3, 3]


QUOTES = {
    "whole": f"bad prompt: {SECRET} with key {KEY}",
    "part": f"bad prompt: {SECRET[5:24]}… with key {KEY[:9]}***{KEY[-5:]}",
    "escaped": f"bad prompt: {SECRET.replace(',', chr(92) + 'u002c')!r} {KEY!r}",
    "lines": "bad prompt: " + SECRET.replace(" ", "\n  "),
}


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
@pytest.mark.parametrize("status", [400, 500])
def test_neither_key_nor_prompt_is_in_an_error_or_a_log(predictor_on, caplog, quote, status):
    caplog.set_level(logging.DEBUG)
    with endpoint_server(*[error(status, quote)] * 3) as server:
        predictor = predictor_on(server, api_key_env="TEACHER_KEY")
        line = told(lambda: predictor.answer([Request(SECRET)]))
    assert "bad prompt: " in line
    logged = line + "".join(f"{record.getMessage()}" for record in caplog.records)
    assert "HTTP Request" in logged, "the client's own log must have been read"
    for private in ("Eagle", "phone", "1223", KEY[:7], KEY[-5:]):
        assert private not in logged


def test_hidden_text_is_marked_and_other_words_stay():
    assert hide("model is overloaded", ["a prompt about fish"], 8) == "model is overloaded"
    assert hide("no fish here", ["fish"], 8) == "no … here"
    assert hide("say \\u0444\\u044b\\u0432", ["фыв"], 8) == "say …"


# --- Many at once --------------------------------------------------------------------------------


def test_a_fatal_error_stops_the_rest_and_loses_no_answer(predictor_on):
    with endpoint_server(*map(answers, "ab"), error(401)) as server:
        predictor = predictor_on(server, concurrency=1)
        each = predictor.answer_each([Request("fish")] * 10)
        found = [next(each), next(each)]
        assert "gave 401" in told(lambda: next(each))
    assert [(number, c.text) for number, c in found] == [(0, "a"), (1, "b")]
    assert len(server.seen) == 3


def test_an_answer_under_way_is_given_before_the_error(predictor_on):
    with endpoint_server() as server:
        release = Event()
        server.replies["Say: slow"] = replace(answers("paid for"), hold=release)
        server.replies["Say: bad"] = error(404)
        predictor = predictor_on(server, concurrency=2)
        requests = [Request("slow"), Request("bad"), Request("never"), Request("never")]
        Thread(target=set_after_first, args=(predictor, release)).start()
        each = predictor.answer_each(requests)
        number, completion = next(each)
        assert (number, completion.text) == (0, "paid for")
        assert "gave 404" in told(lambda: next(each))
    assert len(server.seen) == 2


def set_after_first(predictor, event):
    """Set `event` when one request is done with, and its thread has had time to say so."""
    while predictor.usage.requests < 1:
        Event().wait(0.002)
    Event().wait(0.05)
    event.set()


def test_a_caller_that_breaks_off_cancels_the_rest(predictor_on):
    with endpoint_server() as server:
        predictor = predictor_on(server, concurrency=1)
        release = Event()
        server.replies["Say: second"] = replace(answers("x"), hold=release)
        requests = [Request("first"), Request("second"), Request("never")]
        each = predictor.answer_each(requests)
        next(each)
        Thread(target=release.set).start()
        each.close()
    assert len(server.seen) <= 2


def test_the_account_adds_up_over_threads(predictor_on):
    requests = [Request("one two three")] * 60
    with endpoint_server(error(500), error(500)) as server:
        predictor = predictor_on(server, concurrency=8)
        predictor.answer(requests)
    usage = predictor.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (60 * 4, 60 * 6)
    assert (usage.requests, usage.retries, usage.unmetered) == (62, 2, 0)
    assert usage.cost_usd == pytest.approx(estimate_cost(240, 360, predictor.settings))
    assert usage.seconds > 0


def test_garbage_that_was_paid_for_is_on_the_account(predictor_on):
    paid = as_json({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
    with endpoint_server(paid, Reply(b"oops"), answers("x y")) as server:
        predictor = predictor_on(server)
        predictor.answer([Request("fish")])
    expected = Usage(prompt_tokens=12, completion_tokens=11, requests=3, retries=2, unmetered=1)
    assert replace(predictor.usage, cost_usd=0.0, seconds=0.0) == expected


# --- Streams -------------------------------------------------------------------------------------

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


# --- The list of models --------------------------------------------------------------------------


def test_check_says_whether_the_server_knows_the_model(predictor_on):
    with endpoint_server() as server:
        assert predictor_on(server).check() == f"{server.url} serves tiny."
        line = predictor_on(server, model="huge").check()
    assert "does not list huge (listed: tiny, other)." in line and "\n" not in line
    assert [asked["path"] for asked in server.seen] == ["/v1/models"] * 2


# --- A real server -------------------------------------------------------------------------------


def plain_model(folder):
    """A tiny model that writes whole characters only, with a chat template that is `TEMPLATE`."""
    write_model(folder)
    weights = load_file(folder / "model.safetensors")
    tokenizer = tiny_tokenizer()
    for token, number in tokenizer.get_vocab().items():
        if not (tokenizer.decode([number]).isascii() and token.isascii()):
            weights["model.embed_tokens.weight"][number] = 0  # tied: its logit is always 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    template = TEMPLATE.replace("{prompt}", "{{ messages[-1]['content'] }}")
    (folder / "chat_template.jinja").write_text(template)
    write_contract(folder, replace(read_contract(folder, check_files=False), files={}))
    return folder


@contextmanager
def serving(folder, log):
    """`transformers serve` in a process of its own; gives its address."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", folder]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    (folder.parent / "hub").mkdir()
    environment = os.environ | {"HF_HUB_CACHE": str(folder.parent / "hub"), "OMP_NUM_THREADS": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"http://127.0.0.1:{port}/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_transformers_serve_answers_what_the_transformers_engine_answers(tmp_path):
    folder = plain_model(tmp_path / "model")
    engine = load(folder)
    texts = [
        "fish",
        "name[The Eagle], food[fish]",
        "dogs",
        "The Mill serves curry",
        "eu-west-1 1.8",
    ]
    requests = [Request(text) for text in texts]
    expected = engine.answer(requests)
    assert len({c.text for c in expected}) == len(texts)
    with serving(folder, tmp_path / "log") as url:
        for api, template in (("chat", "{prompt}"), ("completions", TEMPLATE)):
            described = tmp_path / api
            described.mkdir()
            settings = replace(SETTINGS, base_url=url, model=str(folder), api=api, timeout_s=60.0)
            write_settings(described, replace(settings, logprobs=True))
            contract = replace(engine.contract, engine="endpoint", prompt_template=template)
            write_contract(described, replace(contract, files={}))
            predictor = load(described)
            found = predictor.answer(requests)
            assert [c.text for c in found] == [c.text for c in expected]
            for ours, theirs in zip(expected, found, strict=True):
                assert ours.prompt_tokens == theirs.prompt_tokens
                assert ours.completion_tokens == theirs.completion_tokens
                assert ours.finish_reason == theirs.finish_reason
                assert theirs.mean_logprob is None, "the server gives none although asked"
            assert "".join(predictor.stream(requests[1])) == expected[1].text
            assert "does not list" in predictor.check(), "folders are served but not listed"
            predictor.close()
