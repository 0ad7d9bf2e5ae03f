"""Chat messages become one request, and what has no place is refused or counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._chat import LeftOut, read_messages, read_prompt
from serving._items import ServiceError
from serving.completion import Request

PLAIN = "<|prompt|>{prompt}<|answer|>"
PLACED = "{context}<|prompt|>{prompt}<|answer|>"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is up?"},
    {"role": "assistant", "content": "The gateway."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "And"}, {"type": "text", "text": "down?"}],
    },
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name"]), inner)
    ),
    max_leaves=8,
)


def user(content="fish", **fields):
    return {"role": "user", "content": content, **fields}


def refusal(messages, template=PLACED, **more):
    with pytest.raises(ServiceError) as caught:
        read_messages(messages, template, **more)
    assert caught.value.status == 422
    return caught.value


def test_the_last_user_message_is_the_prompt_and_all_before_it_the_context():
    asked = read_messages(TALK, PLACED, context="Region: eu-west-1", slots={"a": "b"})
    context = "Be brief.\nRegion: eu-west-1\nUser: What is up?\nAssistant: The gateway."
    assert asked.to_request() == Request("And\ndown?", {"a": "b"}, context)
    assert asked.left_out == LeftOut()


def test_a_single_message_is_the_prompt_that_the_native_endpoint_reads():
    assert read_messages([user()], PLAIN).to_request() == Request("fish")
    assert read_prompt("fish", PLACED, context="tea").to_request() == Request("fish", None, "tea")
    assert read_messages([user()], PLACED, context="tea").context == "tea", "as it was sent"


def test_a_turn_is_a_users_message_with_all_answers_to_it():
    roles = ["assistant", "user", "user", "assistant", "assistant", "user"]
    messages = [{"role": role, "content": str(n)} for n, role in enumerate(roles)]
    turns = read_messages(messages, PLACED).turns
    texts = ["Assistant: 0", "User: 1", "User: 2\nAssistant: 3\nAssistant: 4"]
    assert [turn.text for turn in turns] == texts


@pytest.mark.parametrize(
    ("messages", "context", "field", "what"),
    [
        (TALK[1:], None, "messages", "earlier turns"),
        ([TALK[0], TALK[3]], None, "messages", "system messages"),
        ([TALK[3]], "tea", "context", "a context"),
    ],
)
def test_what_has_no_place_is_refused_by_its_field(messages, context, field, what):
    error = refusal(messages, PLAIN, context=context)
    assert (error.refusal, error.parameter) == ("invalid_request", field)
    assert what in error.message


def test_a_native_context_without_a_place_is_refused():
    with pytest.raises(ServiceError, match="no place for a context"):
        read_prompt("fish", PLAIN, context="tea")


def test_what_has_no_place_is_dropped_and_counted_where_that_is_the_policy():
    asked = read_messages(TALK, PLAIN, "drop", context="tea")
    assert asked.to_request() == Request("And\ndown?")
    assert asked.left_out == LeftOut(system_messages=1, turns=1, context=True)
    assert read_messages([user()], PLAIN, "drop").left_out == LeftOut()


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (None, "messages"),
        ([], "messages"),
        ("fish", "messages"),
        (["fish"], "messages[0]"),
        ([user(), user(name="secret")], "messages[1]"),
        ([{"content": "fish"}], "messages[0].role"),
        ([{"role": "tool", "content": "secret"}], "messages[0].role"),
        ([{"role": ["user"], "content": "fish"}], "messages[0].role"),
        ([user(), {"role": "assistant", "content": "secret"}], "messages[1].role"),
        ([user("")], "messages[0].content"),
        ([user(None)], "messages[0].content"),
        ([user([])], "messages[0].content"),
        ([user("secret \ud800")], "messages[0].content"),
        ([user([{"type": "image_url", "image_url": "secret"}])], "messages[0].content[0]"),
        ([user([{"type": "text", "text": 3}])], "messages[0].content[0].text"),
    ],
)
def test_a_wrong_message_is_told_by_its_place_and_without_its_text(messages, field):
    error = refusal(messages)
    assert (error.refusal, error.parameter) == ("invalid_request", field)
    assert "secret" not in error.message


def test_an_answer_that_a_client_gives_back_with_empty_fields_is_taken():
    given_back = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None}
    developer = {"role": "developer", "content": "Be brief."}
    asked = read_messages([developer, user(), given_back, user()], PLACED)
    assert asked.context == "Be brief.\nUser: fish\nAssistant: a"


@given(JSON)
def test_any_json_is_read_or_refused(messages):
    try:
        assert read_messages(messages, PLACED).prompt
    except ServiceError as error:
        assert error.status == 422
