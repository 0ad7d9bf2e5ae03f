"""The service keeps the word of its OpenAPI document, whatever is sent to it."""

import json

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from schemathesis.specs.openapi.checks import positive_data_acceptance
from scripted_backend import CHAT, TEXT, Scripted, ask, events_of

from serving._items import ServiceError
from serving._openai_errors import KINDS
from serving._openai_requests import Limits
from serving._openai_routes import build_app
from serving._openapi import LIFECYCLE, Operation, describe

LIMITS = Limits(answers=3)
DOCUMENT = describe("1.0", limits=LIMITS, models=["still-1"])
SCHEMA = schemathesis.openapi.from_asgi(
    "/openapi.json", build_app(Scripted(), LIMITS, openapi=DOCUMENT)
)
PATHS = ("/v1/chat/completions", "/v1/completions")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def validator(name):
    return jsonschema_rs.validator_for({**DOCUMENT, "$ref": f"#/components/schemas/{name}"})


# Without the check that all valid bodies are taken: a schema cannot say that the last message
# must be the user's, or that best_of is at least n.
@pytest.mark.slow
@SCHEMA.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_routes_do_what_the_document_says(case):
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_body_is_a_fault_of_ours(path, data):
    base = CHAT if "chat" in path else TEXT
    names = [*DOCUMENT["components"]["schemas"]["ChatBody"]["properties"], "prompt"]
    wrong = data.draw(st.dictionaries(st.sampled_from(names), anything, min_size=1, max_size=3))
    body = json.dumps(base | wrong).encode()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body)))
        body = body[:at] + data.draw(st.binary(max_size=4)) + body[at + 1 :]
    response = ask(Scripted(), path, body)
    assert response.status_code in (200, 400, 404, 422)
    if response.status_code != 200:
        validator("ErrorBody").validate(response.json())


@pytest.mark.parametrize("refusal", sorted(KINDS))
def test_every_refusal_is_in_the_document(refusal):
    response = ask(Scripted(ServiceError(refusal, "no")), body=CHAT)
    told = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"]
    described = told[str(response.status_code)]
    assert described["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")
    assert ("headers" in described) == ("retry-after" in response.headers)
    validator("ErrorBody").validate(response.json())


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [(PATHS[0], CHAT, "ChatCompletionChunk"), (PATHS[1], TEXT, "TextCompletionChunk")],
)
@pytest.mark.parametrize("usage", [False, True])
def test_every_event_of_a_stream_is_in_the_document(path, body, name, usage):
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    *chunks, _ = events_of(ask(Scripted(), path, body | options))
    assert len(chunks) > 2
    for chunk in chunks:
        validator(name).validate(chunk)


def test_limits_and_models_are_in_the_document():
    fields = DOCUMENT["components"]["schemas"]["CompletionBody"]["properties"]
    assert fields["n"]["anyOf"][0]["maximum"] == 3
    assert fields["best_of"]["anyOf"][0]["maximum"] == 3
    assert fields["prompt"]["anyOf"][1]["maxItems"] == LIMITS.prompts
    assert fields["model"]["enum"] == ["still-1"]


def test_native_routes_join_it():
    class Question(BaseModel):
        prompt: str

    class Reply(BaseModel):
        text: str

    native = Operation("/generate", "post", "Answer", Reply, Question, (422, 503))
    document = describe("1.0", [native, *LIFECYCLE])
    generate = document["paths"]["/generate"]["post"]
    assert set(generate["responses"]) == {"200", "422", "503"}
    assert {"Question", "Reply"} <= document["components"]["schemas"].keys()
    assert {"/livez", "/readyz", "/metrics", *PATHS} <= document["paths"].keys()
    identifiers = [
        one["operationId"] for path in document["paths"].values() for one in path.values()
    ]
    assert len(set(identifiers)) == len(identifiers)
    jsonschema_rs.meta.validate(document["components"]["schemas"]["Question"])


def test_it_is_served():
    app_document = ask(Scripted(), "/openapi.json", method="GET", openapi=DOCUMENT)
    assert app_document.json() == DOCUMENT
    assert ask(Scripted(), "/openapi.json", method="GET").status_code == 404
