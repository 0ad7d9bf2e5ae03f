"""What every prompt begins with is computed once by the ctranslate2 engine, and changes nothing."""

from dataclasses import replace

import pytest
from converted_models import write_converted
from tiny_models import write_model

from serving import _ctranslate2_generation as generation
from serving.completion import Request
from serving.contract import read_contract
from serving.ctranslate2_engine import CTranslate2Predictor

EARLY_ENDS = frozenset(range(2, 300, 12))
INSTRUCTION = "Say what the record says: "
TEXTS = ["fish", "name[The Mill]", "dogs", "a", "eu-west-1 1.8 s"]
REQUESTS = [Request(text) for text in TEXTS]


@pytest.fixture
def predictor(tmp_path, monkeypatch):
    """A model whose template is long enough for the tiny bound set here."""
    monkeypatch.setattr(generation, "SHARED_PREFIX", 8)
    folder = tmp_path / "converted"
    write_converted(folder, write_model(tmp_path / "model"))
    contract = replace(
        read_contract(folder),
        prompt_template=INSTRUCTION + "{prompt}",
        decoding={"max_new_tokens": 12},
    )
    made = CTranslate2Predictor(folder, contract, device="cpu")
    asked = {number for ids in made.encode(REQUESTS) for number in ids}
    made.ends = EARLY_ENDS - asked
    return made


def counting(monkeypatch, predictor):
    """Settings of the calls that are made."""
    calls, plain = [], predictor.generator

    class Counted:
        def generate_batch(self, texts, **settings):
            calls.append((texts, settings))
            return plain.generate_batch(texts, **settings)

    monkeypatch.setattr(predictor, "generator", Counted())
    return calls


def test_answers_are_those_of_whole_prompts(predictor, monkeypatch):
    assert len(predictor.prefix) >= 8
    calls = counting(monkeypatch, predictor)
    batch = predictor.answer(REQUESTS)
    single = [predictor.answer([request])[0] for request in REQUESTS]
    assert all(settings["cache_static_prompt"] for _, settings in calls)
    predictor.prefix = []
    whole = predictor.answer(REQUESTS)
    assert len({completion.text for completion in whole}) > 2
    for found, alone, expected in zip(batch, single, whole, strict=True):
        for one in (found, alone):
            assert (one.text, one.completion_tokens) == (expected.text, expected.completion_tokens)
            assert one.prompt_tokens == expected.prompt_tokens
            assert one.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4)


def test_the_shared_part_is_sent_once_and_not_with_each_prompt(predictor, monkeypatch):
    calls = counting(monkeypatch, predictor)
    predictor.answer(REQUESTS)
    ((texts, settings),) = calls
    shared = [str(number) for number in predictor.prefix]
    assert settings["static_prompt"] == shared
    encoded = [len(ids) for ids in predictor.encode(REQUESTS)]
    assert sorted(map(len, texts)) == sorted(size - len(shared) for size in encoded)


def test_a_prompt_that_spells_an_end_is_read_whole(predictor, monkeypatch):
    asked = predictor.encode(REQUESTS[:1])[0]
    predictor.ends |= {asked[-1]}
    calls = counting(monkeypatch, predictor)
    predictor.answer(REQUESTS[:1])
    assert "static_prompt" not in calls[0][1]


def test_a_stream_says_the_same(predictor):
    for request, completion in zip(REQUESTS, predictor.answer(REQUESTS), strict=True):
        assert "".join(predictor.stream(request)) == completion.text


def test_a_short_beginning_is_not_worth_it(tmp_path):
    folder = tmp_path / "converted"
    write_converted(folder, write_model(tmp_path / "model"))
    assert CTranslate2Predictor(folder, read_contract(folder), device="cpu").prefix == []
