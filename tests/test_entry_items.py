"""Requests become items: counts are bounded, what is left out is told, what fails is free."""

import asyncio
import threading
from dataclasses import replace

import pytest
from entry_cases import Account
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from serving._entry_items import LONG_BYTES, Preparer
from serving._items import ServiceError
from serving._native import native_asked
from serving._openai_requests import Turn
from serving._prompts import PromptEncoder
from serving._service_settings import ServiceSettings
from serving.contract import Contract

CONTRACT = Contract(
    engine="transformers",
    prompt_template="{prompt}",
    slot_schema=None,
    limits={"max_prompt_tokens": 48},
    decoding={"max_new_tokens": 24},
    params_hash="0" * 64,
    data_hash="0" * 64,
)


@pytest.fixture
def folder(tmp_path):
    """A tokenizer whose tokens are words."""
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def prepare(folder, asked, account=None, **settings):
    preparer = Preparer(folder, CONTRACT, ServiceSettings(**settings))
    state = {"admitted": account} if account else {}
    return asyncio.run(preparer.prepare(asked, state))


@pytest.mark.parametrize("count", [9, 1_000_000, 0, True, "2", None, 2.0])
@pytest.mark.parametrize("name", ["answers", "decoding.answers", "decoding.beams"])
def test_more_answers_than_one_request_may_have_are_refused(folder, name, count):
    asked = native_asked("fish", decoding={"method": "sample"})
    if name == "answers":
        asked = replace(asked, candidates=count)
    else:
        asked.decoding[name.removeprefix("decoding.")] = count
    account = Account()
    with pytest.raises(ServiceError) as caught:
        prepare(folder, asked, account)
    assert (caught.value.refusal, caught.value.parameter) == ("invalid_request", name)
    assert account.tokens == 0


def test_as_many_answers_as_are_allowed_are_prepared(folder):
    decoding = {"method": "beam", "beams": 8, "answers": 8}
    item = prepare(folder, native_asked("fish", decoding=decoding, answers=8)).items[0]
    assert (item.answers, item.decoding["beams"]) == (8, 8)


def test_a_request_that_does_not_fit_is_charged_nothing(folder):
    account = Account()
    with pytest.raises(ServiceError) as caught:
        prepare(folder, native_asked("fish " * 49), account)
    assert (caught.value.refusal, account.tokens) == ("prompt_too_long", 0)


def test_a_request_that_fits_is_charged_its_prompt_and_the_longest_answers(folder):
    account = Account()
    prepare(folder, native_asked("fish and chips", answers=2), account)
    assert account.tokens == 3 + 2 * 24


def test_what_the_template_has_no_place_for_is_counted(folder):
    turns = (Turn("system", "be kind"), Turn("user", "hi"), Turn("assistant", "hi to you"))
    asked = replace(native_asked("fish", context="one two three"), chat=True, turns=turns)
    prepared = prepare(folder, asked, unplaced="drop")
    assert (prepared.dropped_turns, prepared.dropped_tokens) == (2, 2 + 1 + 3 + 3)
    assert prepared.items[0].context is None


def test_what_has_its_place_is_not_counted_as_dropped(folder):
    prepared = prepare(folder, native_asked("fish"), unplaced="drop")
    assert (prepared.dropped_turns, prepared.dropped_tokens) == (0, 0)


class Watched(PromptEncoder):
    """Notes the threads that it encodes in."""

    threads: set

    def encode(self, request, shots=""):
        self.threads.add(threading.current_thread())
        return super().encode(request, shots)


@pytest.mark.parametrize("long", [False, True])
def test_long_texts_alone_are_encoded_beside_the_loop(folder, long):
    preparer = Preparer(folder, CONTRACT, ServiceSettings())
    preparer.encoder = Watched(folder, "{prompt}")
    preparer.encoder.threads = set()
    prompt = "x" * (LONG_BYTES + 1 if long else 9)
    asyncio.run(preparer.prepare(native_asked(prompt), {}))
    assert (threading.current_thread() not in preparer.encoder.threads) == long
