"""Batches of a small model go side by side, and of several beams only the one given is scored."""

import threading
from dataclasses import replace

import pytest
import torch
from converted_models import write_converted
from tiny_models import word_schema, write_model

from serving import _threads
from serving.completion import Request
from serving.contract import read_contract
from serving.ctranslate2_engine import CTranslate2Predictor
from serving.transformers_engine import TransformersPredictor

TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "The Mill serves {curry}…", "eu-west-1 1.8"]
REQUESTS = [Request(text) for text in TEXTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def allow(monkeypatch):
    """Allow so many threads to a model that is large enough; torch gets its own number back."""
    monkeypatch.setattr(_threads, "TRAINED_SHARED_FROM_BYTES", 1)
    before = torch.get_num_threads()
    yield lambda count: monkeypatch.setenv("OMP_NUM_THREADS", str(count))
    torch.set_num_threads(before)


def predictor_of(folder, engine=TransformersPredictor, **decoding):
    contract = read_contract(folder)
    return engine(folder, replace(contract, decoding={**contract.decoding, **decoding}), "cpu")


@pytest.mark.parametrize(
    "decoding",
    [{}, {"method": "beam", "beams": 3}, {"method": "sample", "seed": 3}],
    ids=["greedy", "beam", "sample"],
)
def test_batches_side_by_side_answer_as_one_after_the_other(folder, allow, decoding):
    allow(1)
    alone = predictor_of(folder, batch_tokens=1, **decoding)  # a batch for each request
    allow(2)
    together = predictor_of(folder, batch_tokens=1, **decoding)
    assert (alone.at_once, together.at_once) == (1, 2)
    met, both = [], threading.Barrier(2, timeout=30)
    decode = together.decode

    def meet(prompts, requests, count):
        met.append(threading.current_thread().name)
        if len(met) <= 2:
            both.wait()  # only if another batch is under way
        assert torch.get_num_threads() == 1
        return decode(prompts, requests, count)

    together.decode = meet
    assert together.answer(REQUESTS) == alone.answer(REQUESTS)
    assert len(met) == len(REQUESTS) and len(set(met)) == 2


def test_a_batch_that_fails_fails_the_whole(folder, allow):
    allow(2)
    predictor = predictor_of(folder, batch_tokens=1)
    predictor.decode = lambda prompts, requests, count: [][1]
    with pytest.raises(IndexError):
        predictor.answer(REQUESTS)


@pytest.mark.parametrize(("allowed", "at_once"), [(1, 1), (2, 2), (64, _threads.AT_ONCE)])
def test_batches_go_side_by_side_as_threads_are_allowed(folder, allow, allowed, at_once):
    allow(allowed)
    assert predictor_of(folder).at_once == at_once


def test_a_model_of_other_size_and_a_quantized_one_answer_a_batch_at_a_time(
    folder, allow, monkeypatch
):
    allow(2)
    predictor = predictor_of(folder)
    predictor.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    around = predictor.ends, predictor.prompts, predictor.contract
    assert TransformersPredictor.around(predictor.model, *around).at_once == 1
    del predictor.model.config.quantization_config
    assert TransformersPredictor.around(predictor.model, *around).at_once == 2
    monkeypatch.setattr(_threads, "SHARED_FROM_BYTES", 1)
    torch.set_num_threads(2)
    assert predictor_of(folder).at_once == 1, "its products take both threads"
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert predictor_of(folder).at_once == 1, "of little but Python's own work"


@pytest.mark.parametrize("engine", [TransformersPredictor, CTranslate2Predictor])
def test_only_beams_that_are_given_are_scored(folder, tmp_path, engine):
    source = folder
    if engine is CTranslate2Predictor:
        source = tmp_path / "converted"
        write_converted(source, folder)
    greedy = predictor_of(source, engine, max_new_tokens=8)
    beams = predictor_of(source, engine, max_new_tokens=8, method="beam", beams=4)
    whole = beams.answer_many(REQUESTS[:1], 4)[0]
    assert len(whole) == 4 and all(answer.mean_logprob < 0 for answer in whole)
    first = greedy.answer(REQUESTS[:1])[0]
    other = next(answer for answer in whole if answer.text not in first.text)
    again = predictor_of(source, engine, max_new_tokens=8, answers=4)
    schema = word_schema(other.text.strip())
    again = engine(source, replace(again.contract, slot_schema=schema), "cpu")
    scored, score = [], again.token_logprobs
    again.token_logprobs = lambda prompts, answers: (
        scored.append(answers) or score(prompts, answers)
    )
    given = again.answer([replace(REQUESTS[0], slots={"word": "it"})])[0]
    assert type(given) is type(first) and given.text == other.text
    assert given.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
    assert given.min_logprob == pytest.approx(other.min_logprob, abs=1e-4)
    assert [len(answers) for answers in scored] == [1], "one of four beams"
