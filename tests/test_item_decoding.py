"""Items ask for other settings than the contract's, and get what the predictor would answer."""

from contextlib import contextmanager
from dataclasses import replace
from queue import Queue

import pytest
from converted_models import write_converted
from scripted_predictors import SECONDS, Script, ScriptedPredictor
from tiny_models import word_schema, write_model

from serving._item_decoding import Variants, merge
from serving._items import Answer, Item
from serving._jobs import choices
from serving._scheduler import Scheduler
from serving._scheduler_limits import Limits
from serving.completion import Request
from serving.contract import read_contract
from serving.ctranslate2_engine import CTranslate2Predictor
from serving.transformers_engine import TransformersPredictor

TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "The Mill serves {curry}…", "eu-west-1 1.8"]
SAMPLE = {"method": "sample", "seed": 3, "top_p": 0.9, "temperature": 0.8}
ENGINES = {"transformers": TransformersPredictor, "ctranslate2": CTranslate2Predictor}
EARLY_ENDS = frozenset(range(2, 300, 12))


@pytest.fixture(scope="module", params=list(ENGINES))
def predictor(request, tmp_path_factory):
    """A tiny model whose answers end early, with 16 tokens by its contract."""
    root = tmp_path_factory.mktemp("models")
    folder = write_model(root / "model")
    if request.param == "ctranslate2":
        write_converted(root / "converted", folder)
        folder = root / "converted"
    contract = replace(read_contract(folder), decoding={"max_new_tokens": 16})
    made = ENGINES[request.param](folder, contract, device="cpu")
    made.ends = EARLY_ENDS
    return made


@contextmanager
def scheduling(predictor, **limits):
    scheduler = Scheduler(predictor, Limits(gather_s=0.0, **limits))
    yield scheduler
    scheduler.close()


def assert_same(answer, completions):
    """The same choices, log-probabilities up to rounding."""
    assert answer.refusal is None
    for found, expected in zip(answer.choices, choices(completions), strict=True):
        facts = ("text", "finish_reason", "completion_tokens")
        assert [getattr(found, f) for f in facts] == [getattr(expected, f) for f in facts]
        assert found.mean_logprob == pytest.approx(expected.mean_logprob, abs=1e-4)


@pytest.mark.parametrize(
    "decoding",
    [{}, {"max_new_tokens": 3}, SAMPLE, {"method": "beam", "beams": 3}],
    ids=["contract", "shorter", "sample", "beam"],
)
def test_answers_are_the_predictors_own(predictor, decoding):
    merged = {"max_new_tokens": 16, **decoding}
    expected = predictor.using(merged).answer([Request(text) for text in TEXTS])
    items = [Item(id=text, prompt=text, decoding=decoding) for text in TEXTS]
    with scheduling(predictor, max_rows=4) as scheduler:
        answers = [future.result(SECONDS) for future in scheduler.submit_many(items)]
    for answer, completion in zip(answers, expected, strict=True):
        assert_same(answer, [completion])
        assert answer.prompt_tokens == completion.prompt_tokens


@pytest.mark.parametrize("decoding", [{}, SAMPLE], ids=["greedy", "sample"])
def test_streams_are_the_predictors_own(predictor, decoding):
    (expected,) = predictor.using({"max_new_tokens": 16, **decoding}).answer([Request(TEXTS[1])])
    heard = Queue()
    with scheduling(predictor) as scheduler:
        scheduler.stream(Item(id="1", prompt=TEXTS[1], decoding=decoding), heard.put)
        said = [heard.get(timeout=SECONDS)]
        while not isinstance(said[-1], Answer):
            said.append(heard.get(timeout=SECONDS))
    assert_same(said[-1], [expected])
    assert "".join(said[:-1]) == expected.text


def test_samples_of_different_seeds_share_a_batch_and_stay_their_own(predictor):
    variants = Variants(predictor, 8192, 4)
    items = [
        Item(id=str(seed), prompt=TEXTS[1], decoding={**SAMPLE, "seed": seed}) for seed in (3, 4, 3)
    ]
    assert len({variants.of(item).name for item in items}) == 1
    with scheduling(predictor, max_rows=4) as scheduler:
        answers = [future.result(SECONDS) for future in scheduler.submit_many(items)]
    assert [answer.batch_rows for answer in answers] == [3, 3, 3]
    for item, answer in zip(items, answers, strict=True):
        alone = predictor.using({"max_new_tokens": 16, **item.decoding})
        assert_same(answer, alone.answer([Request(TEXTS[1])]))
    assert answers[0].choices[0].text == answers[2].choices[0].text
    assert answers[0].choices[0].text != answers[1].choices[0].text


def test_several_samples_are_answer_manys(predictor):
    (expected,) = predictor.using({"max_new_tokens": 16, **SAMPLE}).answer_many(
        [Request(TEXTS[0])], 3
    )
    with scheduling(predictor) as scheduler:
        item = Item(id="1", prompt=TEXTS[0], decoding=SAMPLE, answers=3)
        assert_same(scheduler.submit(item).result(SECONDS), expected)


def test_being_cut_by_demand_is_no_fault_and_asks_nothing_again(tmp_path):
    folder = write_model(tmp_path / "model", slot_schema=word_schema("never"))
    contract = replace(read_contract(folder), decoding={"max_new_tokens": 16, "answers": 4})
    predictor = TransformersPredictor(folder, contract, device="cpu")
    item = Item(id="1", prompt="fish", slots={"word": "it"}, decoding={"max_new_tokens": 4})
    variants = Variants(predictor, 8192, 4)
    assert variants.of(item).predictor.second is None
    whole = item.model_copy(update={"decoding": {}})
    assert variants.of(whole).predictor.second is not None
    same = item.model_copy(update={"decoding": {"max_new_tokens": 16}})
    assert variants.of(same) == variants.of(whole)


def test_what_belongs_to_a_method_stays_with_it():
    contract = {"max_new_tokens": 9, "method": "beam", "beams": 4, "answers": 4, "top_p": 0.5}
    sample = merge(contract, {"method": "sample"})
    assert sample == {"max_new_tokens": 9, "method": "sample", "top_p": 0.5}
    assert merge(contract, {"max_new_tokens": 4}) == {**contract, "max_new_tokens": 4}
    assert merge({"max_new_tokens": 9, "answers": 4}, {"max_new_tokens": 9})["answers"] == 4
    assert merge({"max_new_tokens": 9, "answers": 4}, {"max_new_tokens": 8})["answers"] == 1


def test_settings_are_made_once_and_the_oldest_are_forgotten():
    variants = Variants(ScriptedPredictor(Script()), 100, most=2)
    items = [Item(id="1", prompt="1", decoding={"max_new_tokens": n}) for n in (5, 6, 5, 7, 5)]
    made = [variants.of(item).predictor for item in items]
    assert made[0] is made[2] is made[4]
    assert len(variants) == 2
    assert {predictor.decoding.batch_tokens for predictor in made} == {100}


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, 1),
        ({"decoding": {"method": "beam", "beams": 4}}, 4),
        ({"decoding": {"method": "sample"}, "answers": 3}, 3),
        ({"decoding": {"method": "sample", "answers": 5}}, 5),
    ],
    ids=["greedy", "beam", "samples", "competing"],
)
def test_every_beam_and_sample_takes_a_row(fields, rows):
    variants = Variants(ScriptedPredictor(Script()), 100, most=2)
    assert variants.of(Item(id="1", prompt="1", **fields)).rows == rows
