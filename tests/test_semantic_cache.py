"""The semantic cache: hits only what asks the same, of the same tenant and scope, in time."""

import asyncio

import numpy as np
import pytest

from serving._responses.same_request import MAX_CHARS, same_request
from serving._responses.semantic import SemanticCache, request_scope

SAME = [
    ("name[Aromi], food[fish]", "food[fish],  name[Aromi]"),
    ("What is the tax on 250 books?", "Please tell me what the tax on 250 books is"),
    ("Write 3 lines about rain.", "write three lines about rain"),
    ("How do I walk from Leeds to York?", "How do I walk to York from Leeds?"),
    ("Is the pool open on Sunday?", "On Sunday, is the pool open?"),
    ("List cafés in Rome", "Could you list cafés in Rome, please?"),
]
DIFFERENT = {
    "slot value": ("name[Aromi], food[fish]", "name[Aromi], food[pies]"),
    "slot dropped": ("name[Aromi], food[fish]", "name[Aromi]"),
    "slots exchanged": ("to[Leeds], from[York]", "to[York], from[Leeds]"),
    "record and text": ("name[Aromi]", "Aromi"),
    "reversal": ("How do I get from Leeds to York?", "How do I get from York to Leeds?"),
    "agent and patient": ("Can a cat eat a snake?", "Can a snake eat a cat?"),
    "same preposition": ("those in Leeds who work in York", "those in York who work in Leeds"),
    "pronouns": ("What do I owe you?", "What do you owe me?"),
    "number": ("Add 250 euros", "Add 205 euros"),
    "number word": ("Give three reasons", "Give four reasons"),
    "number with a sign": ("Is -5 degrees cold?", "Is 5 degrees cold?"),
    "unit": ("Wait 5 minutes", "Wait 5 hours"),
    "currency": ("What is $50 worth?", "What is €50 worth?"),
    "version": ("Is 2.3.1 safe?", "Is 2.3.2 safe?"),
    "name": ("Who wrote Carmen?", "Who wrote Tosca?"),
    "negation": ("Does it cover damage?", "Doesn't it cover damage?"),
    "without": ("Return shoes with a receipt", "Return shoes without a receipt"),
    "opposite": ("How do I enable the alarm?", "How do I disable the alarm?"),
    "tense": ("Who is the king of Spain?", "Who was the king of Spain?"),
    "plain word": ("Why did the disk fail?", "Why did the network fail?"),
    "more asked": ("Which pubs allow dogs?", "Which quiet pubs allow dogs?"),
}


async def encode(texts):
    """All texts are near: only the check can tell them apart. "far" is at right angles."""
    return [np.float32([0, 1] if "far" in text else [1, 0]) for text in texts]


def cache(**changes):
    return SemanticCache(changes.pop("encode", encode), **changes)


def found(semantic, prompt, tenant="t", scope="s"):
    return asyncio.run(semantic.find(tenant, scope, prompt))


def add(semantic, prompt, key="k", tenant="t", scope="s"):
    return asyncio.run(semantic.add(tenant, scope, prompt, key))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_asks_the_same_is_the_same(one, other):
    assert same_request(one, other) == same_request(other, one) == "same"


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_near_miss_is_different(one, other):
    assert same_request(one, other) == same_request(other, one) == "different"


@pytest.mark.parametrize("text", ["", "?!", "please", "fish " * MAX_CHARS])
def test_what_cannot_be_checked_is_unknown(text):
    assert same_request(text, text) == "unknown"


def test_values_alone_ask_for_less_than_all_words():
    one, other = "Can I return shoes without a receipt?", "May shoes without receipt be returned?"
    assert same_request(one, other, "values") == "same"
    assert same_request(one, other, "words") == "different"


def test_the_answers_key_of_a_prompt_that_asks_the_same_is_found():
    semantic = cache()
    assert found(semantic, SAME[3][0]).outcome == "far"
    assert add(semantic, SAME[3][0], "key")
    looked = found(semantic, SAME[3][1])
    assert (looked.outcome, looked.key, looked.similarity) == ("hit", "key", 1.0)


def test_a_nearer_reversal_does_not_hide_the_question_itself():
    semantic = cache()
    add(semantic, DIFFERENT["reversal"][1], "reversal")
    assert found(semantic, DIFFERENT["reversal"][0]).outcome == "different"
    add(semantic, "How do I get to York from Leeds?", "right")
    assert found(semantic, DIFFERENT["reversal"][0]).key == "right"


def test_what_is_too_far_is_never_checked():
    semantic = cache()
    add(semantic, "how far is York")
    looked = found(semantic, "is York near")
    assert (looked.outcome, looked.key, looked.similarity) == ("far", None, 0.0)


def test_tenants_and_scopes_never_meet():
    semantic = cache()
    add(semantic, "who is it", tenant="a", scope="one")
    assert found(semantic, "who is it", tenant="b", scope="one").key is None
    assert found(semantic, "who is it", tenant="a", scope="two").key is None
    assert found(semantic, "who is it", tenant="a", scope="one").key == "k"


def test_a_scope_changes_with_everything_but_the_prompt():
    base = {"models": "m", "template": "t", "decoding": {"n": 1}, "tenant": "a"}
    changes = [{name: "x"} for name in ("models", "template", "tenant", "context")]
    changes += [{"decoding": {"n": 2}}, {"slots": {"food": "fish"}}, {"answers": 2}]
    scopes = {request_scope(**base), *(request_scope(**(base | change)) for change in changes)}
    assert len(scopes) == len(changes) + 1


def test_a_prompt_is_hit_for_its_time_only():
    now = [0.0]
    semantic = cache(ttl_s=10, clock=lambda: now[0])
    add(semantic, "who is it")
    now[0] = 9.9
    assert found(semantic, "who is it").outcome == "hit"
    now[0] = 10.0
    assert found(semantic, "who is it").outcome == "far"
    assert len(semantic) == 0


def test_the_least_recently_used_prompt_of_a_full_tenant_goes():
    semantic = cache(entries=2)
    for word in ("apples", "pears"):
        add(semantic, f"about {word}", word)
    found(semantic, "about apples")
    add(semantic, "about plums", "plums")
    add(semantic, "about figs", "other", tenant="u")
    kept = [found(semantic, f"about {word}").key for word in ("apples", "pears", "plums")]
    assert kept == ["apples", None, "plums"]


def test_tenants_are_bounded_too():
    semantic = cache(tenants=2)
    for tenant in "abc":
        add(semantic, "who is it", tenant=tenant)
    assert [found(semantic, "who is it", tenant=tenant).outcome for tenant in "abc"] == [
        "far",
        "hit",
        "hit",
    ]
    assert len(semantic) == 2


def test_rows_are_used_again_and_the_same_key_is_kept_once():
    semantic = cache(entries=8)
    for number in range(100):
        add(semantic, f"line {number}", f"k{number}")
    add(semantic, "line 99", "k99")
    assert len(semantic) == 8
    assert [found(semantic, f"line {n}").key for n in (91, 92, 99)] == [None, "k92", "k99"]


def test_a_prompt_whose_answer_is_gone_can_be_forgotten():
    semantic = cache()
    add(semantic, "who is it")
    semantic.forget("t", "k")
    semantic.forget("nobody", "k")
    assert found(semantic, "who is it").outcome == "far"


def test_a_broken_embedder_is_a_miss():
    broken = False

    async def sometimes(texts):
        if broken:
            raise RuntimeError("away")
        return await encode(texts)

    semantic = cache(encode=sometimes)
    add(semantic, "who is it")
    broken = True
    assert found(semantic, "who is it").outcome == "unavailable"
    assert not add(semantic, "who else is it")


def test_vectors_that_are_no_numbers_are_a_miss():
    async def none(texts):
        return [np.float32([np.nan, 0])]

    assert not add(cache(encode=none), "who is it")


def test_what_cannot_be_checked_is_not_kept():
    semantic = cache()
    assert not add(semantic, "?!")
    assert not add(semantic, "fish " * MAX_CHARS)
    assert found(semantic, "fish " * MAX_CHARS).outcome == "unknown"
