"""What is too long is refused, or shortened so that it truly fits and says by how much."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ANSWER, PROMPT, SENTENCES, tiny_tokenizer

from serving._chat import Asked, Message, Turn, read_messages, read_prompt
from serving._context_window import Dropped, Window, fit_window
from serving._items import ServiceError
from serving._prompts import PromptEncoder

TEMPLATE = f"{PROMPT}{{context}}\n{{prompt}}{ANSWER}"
LIMIT = 24
# Letters of several bytes, text that spells special tokens, and whatever else there is.
TEXTS = st.lists(
    st.sampled_from(["fish ", "é", "…", "🐟", "e\u0301", "<|answer|>", "\n", *SENTENCES])
    | st.characters(exclude_categories=["Cs"]),
    max_size=40,
).map("".join)
PROMPTS = TEXTS.filter(bool)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), max_size=6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return PromptEncoder(folder, TEMPLATE)


def window(policy, limit=LIMIT, positions=None):
    return Window(policy, limit, positions)


def talk(prompt, turns, before=()):
    made = [Turn((Message("user", u), Message("assistant", a))) for u, a in turns]
    return Asked(prompt, tuple(before), tuple(made))


def refusal(asked, encoder, policy, **more):
    with pytest.raises(ServiceError) as caught:
        fit_window(asked, encoder, window(policy, **more), 8)
    return caught.value


def is_ends(kept, whole):
    """Whether `kept` is a beginning and an end of `whole`."""
    head = next(
        (n for n, pair in enumerate(zip(kept, whole, strict=False)) if pair[0] != pair[1]),
        len(kept),
    )
    return any(whole.endswith(kept[n:]) for n in range(head + 1)) and len(kept) <= len(whole)


@settings(deadline=None)
@given(PROMPTS, TURNS, st.sampled_from(["refuse", "drop_oldest_turns", "cut_middle"]))
def test_what_is_given_fits_and_nothing_is_dropped_that_fitted(encoder, prompt, turns, policy):
    asked = talk(prompt, turns)
    before = len(encoder.encode(asked.to_request()))
    try:
        fitted = fit_window(asked, encoder, window(policy), 8)
    except ServiceError as error:
        assert error.refusal == "prompt_too_long"
        assert before > LIMIT
        return
    assert fitted.prompt_tokens == len(encoder.encode(fitted.request)) <= LIMIT
    assert fitted.dropped.tokens == before - fitted.prompt_tokens
    if before <= LIMIT:
        assert (fitted.request, fitted.dropped) == (asked.to_request(), Dropped())


@settings(deadline=None)
@given(PROMPTS, TEXTS)
def test_a_cut_keeps_a_beginning_and_an_end_of_valid_text(encoder, prompt, context):
    asked = read_prompt(prompt, TEMPLATE, context=context)
    try:
        fitted = fit_window(asked, encoder, window("cut_middle"), 8).request
    except ServiceError as error:
        assert "a record is never cut" in error.message, "everything else can be cut until it fits"
        return
    assert fitted.prompt.encode() and (fitted.context or "").encode() is not None
    assert is_ends(fitted.prompt, prompt)
    assert is_ends(fitted.context or "", context)
    assert fitted.prompt == prompt or fitted.context is None, "the context goes first"


def test_a_cut_takes_the_middle_and_no_more_than_needed(encoder):
    long = "fish " + "é dogs " * 60 + "tea"
    for asked in (Asked(long), Asked("curry", (long,))):
        fitted = fit_window(asked, encoder, window("cut_middle"), 8)
        kept = fitted.request.context or fitted.request.prompt
        assert kept.startswith("fish é") and kept.endswith("dogs tea")
        assert fitted.prompt_tokens >= LIMIT - 1, "a character takes up to two tokens"


@settings(deadline=None)
@given(PROMPTS, TURNS.filter(bool))
def test_dropped_turns_are_the_oldest_and_no_more_than_needed(encoder, prompt, turns):
    asked = talk(prompt, turns, ["Be brief."])
    try:
        fitted = fit_window(asked, encoder, window("drop_oldest_turns", 40), 8)
    except ServiceError:
        assert len(encoder.encode(talk(prompt, [], ["Be brief."]).to_request())) > 40
        return
    count = fitted.dropped.turns
    assert fitted.request == talk(prompt, turns[count:], ["Be brief."]).to_request()
    if count:
        one_more = talk(prompt, turns[count - 1 :], ["Be brief."]).to_request()
        assert len(encoder.encode(one_more)) > 40


def test_a_refusal_says_how_long_and_how_long_it_may_be_and_no_text(encoder):
    asked = read_messages([{"role": "user", "content": "fish " * 40}], TEMPLATE)
    tokens = len(encoder.encode(asked.to_request()))
    error = refusal(asked, encoder, "refuse")
    assert (error.refusal, error.status) == ("prompt_too_long", 422)
    assert error.parameter == "messages[0].content"
    assert f"{tokens} tokens" in error.message and f"{LIMIT} fit" in error.message
    assert f"by {tokens - LIMIT} tokens" in error.message and "fish" not in error.message


def test_the_answers_room_is_taken_from_the_positions(encoder):
    assert window("refuse", 48, 96).room(24) == 48
    assert window("refuse", 48, 96).room(90) == 6
    assert window("refuse", 48, None).room(1000) == 48
    with pytest.raises(ServiceError, match="leaves no room") as caught:
        window("refuse", 48, 96).room(96)
    assert (caught.value.refusal, caught.value.parameter) == ("invalid_request", "max_tokens")


def test_only_the_answers_room_can_make_a_prompt_too_long(encoder):
    asked = read_prompt("fish and dogs", TEMPLATE)
    tokens = len(encoder.encode(asked.to_request()))
    assert fit_window(asked, encoder, window("refuse", 96, 96), 96 - tokens).prompt_tokens == tokens
    with pytest.raises(ServiceError, match=f"{tokens - 1} fit"):
        fit_window(asked, encoder, window("refuse", 96, 96), 97 - tokens)


@pytest.mark.parametrize(
    "asked",
    [
        Asked("name[The Eagle], " + ", ".join(f"near{n}[Mill]" for n in range(20))),
        Asked("any words of a record " * 9, slots={"name": "The Eagle"}),
        Asked("And now?", ("Known:\nname[The Eagle], food[" + "fish " * 30 + "]",)),
        talk("name[The Eagle]", [("words " * 30, "words")]),
        talk("fish", [("name[The Eagle], food[" + "fish " * 30 + "]", "words")]),
    ],
    ids=["prompt", "slots", "context", "context of a record", "turn"],
)
def test_a_request_with_a_record_is_refused_and_never_cut(encoder, asked):
    error = refusal(asked, encoder, "cut_middle")
    assert error.refusal == "prompt_too_long" and "a record is never cut" in error.message


def test_whole_turns_may_go_before_a_record(encoder):
    asked = talk("name[The Eagle]", [("words " * 30, "words"), ("fish", "dogs")])
    fitted = fit_window(asked, encoder, window("drop_oldest_turns", 40), 8)
    assert fitted.request.prompt == "name[The Eagle]"
    assert (fitted.request.context, fitted.dropped.turns) == ("User: fish\nAssistant: dogs", 1)


def test_dropping_turns_is_refused_where_the_rest_is_too_long(encoder):
    error = refusal(talk("fish " * 40, [("a", "b")] * 3), encoder, "drop_oldest_turns")
    assert "even without its 3 earlier turns" in error.message


def test_a_cut_counts_the_turns_of_which_nothing_is_left(encoder):
    asked = talk("fish", [("fish " * 9, "dogs"), ("dogs", "fish"), ("fish " * 9, "dogs")])
    assert fit_window(asked, encoder, window("cut_middle", 40), 8).dropped.turns == 1
    assert fit_window(asked, encoder, window("cut_middle", 4), 8).dropped.turns == 3


def test_a_limit_below_the_template_is_refused(encoder):
    assert "template" in refusal(Asked("fish"), encoder, "cut_middle", limit=2).message
