"""The endpoint engine against a server on loopback: what is sent, what is made of an answer."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest
from endpoint_predictors import CONTRACT, SAMPLE, predictors
from endpoint_server import (
    KEY,
    SETTINGS,
    answers,
    as_json,
    completions,
    endpoint_server,
    error,
    told,
)
from toy import SCHEMA, example

from serving.completion import Request
from serving.contract import write_contract
from serving.endpoint_engine import EndpointPredictor
from serving.endpoint_settings import write_settings
from serving.predictor import load

ROOT = Path(__file__).parent.parent
LOGPROBS = {"logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.5}]}}


@pytest.fixture
def predictor_on(tmp_path, monkeypatch):
    """Makes a predictor of a server; it notes its pauses in `pauses` and takes none."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with predictors(tmp_path) as make:
        yield make


# --- Loading --------------------------------------------------------------------------------------


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


# --- What is sent ---------------------------------------------------------------------------------


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


# --- What is made of an answer --------------------------------------------------------------------


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


# --- Several answers ------------------------------------------------------------------------------


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


# --- The list of models ---------------------------------------------------------------------------


def test_check_says_whether_the_server_knows_the_model(predictor_on):
    with endpoint_server() as server:
        assert predictor_on(server).check() == f"{server.url} serves tiny."
        line = predictor_on(server, model="huge").check()
    assert "does not list huge (listed: tiny, other)." in line and "\n" not in line
    assert [asked["path"] for asked in server.seen] == ["/v1/models"] * 2
