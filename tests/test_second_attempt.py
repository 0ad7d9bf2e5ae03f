"""Greedy decoding is checked, and only what has faults is asked again, with beams."""

from dataclasses import replace

import pytest
from tiny_models import END, word_schema, write_model

from serving._answering import TokenPredictor
from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import read_contract
from serving.transformers_engine import TransformersPredictor

FIRST, *OTHERS = REQUESTS = [Request(text) for text in ("fish", "dogs", "curry", "1.8 s")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


class Scripted(TokenPredictor):
    """Gives texts by method and prompt; a text that ends in "…" is cut off."""

    def __init__(self, folder, texts, schema=None, answers=3):
        self.prompts = PromptEncoder(folder, "{prompt}")
        self.end = self.prompts.tokenizer.token_to_id(END)
        self.ends, self.positions, self.shots = frozenset({self.end}), None, None
        self.texts, self.asked = texts, []
        decoding = {"max_new_tokens": 8, "answers": answers}
        self.use(replace(read_contract(folder), decoding=decoding, slot_schema=schema))

    def decode(self, prompts, requests, count):
        method = self.decoding.method
        self.asked += [(method, request.prompt) for request in requests]
        return [self._answers(self.texts[method, r.prompt][:count]) for r in requests]

    def _answers(self, texts):
        encoded = [(self.prompts.encode_answer(text), text.endswith("…")) for text in texts]
        rows = [ids if cut else [*ids, self.end] for ids, cut in encoded]
        return [(row, [-0.5] * len(row)) for row in rows]

    def one_by_one(self, prompt, request):
        ((tokens, logprobs),) = self._answers(self.texts["greedy", request.prompt])
        return zip(tokens, logprobs, strict=True)

    def token_logprobs(self, prompts, answers):
        raise NotImplementedError


def scripted(folder, first, beams, schema):
    """A predictor whose first prompt goes wrong; the others are answered by "good"."""
    texts = {("greedy", request.prompt): ["good"] for request in OTHERS}
    texts |= {("greedy", FIRST.prompt): [first], ("beam", FIRST.prompt): beams}
    return Scripted(folder, texts, schema)


def asked_again(predictor):
    return [prompt for method, prompt in predictor.asked if method == "beam"]


def test_greedy_is_asked_again_with_beams_where_its_answer_has_slot_errors(folder):
    beams = ["bad", "no good", "good, good"]
    predictor = scripted(folder, "worse", beams, word_schema("good"))
    wanted = [replace(request, slots={"word": "it"}) for request in REQUESTS]
    answers = [answer.text for answer in predictor.answer(wanted)]
    assert answers == ["no good", "good", "good", "good"]
    assert asked_again(predictor) == [FIRST.prompt], "only what is wrong is asked again"
    assert list(predictor.stream(wanted[0])) == ["no good"], "whole, for it might have been wrong"


def test_greedy_is_asked_again_where_its_answer_never_ended(folder):
    predictor = scripted(folder, "good good…", ["good…", "any"], word_schema("good"))
    answer = predictor.answer(REQUESTS)[0]
    assert (answer.text, answer.finish_reason) == ("any", "stop")
    assert asked_again(predictor) == [FIRST.prompt]


def test_nothing_is_tried_again_for_a_caller_who_has_left(folder):
    predictor = scripted(folder, "worse", ["good"], word_schema("good"))
    left = replace(FIRST, slots={"word": "it"}, gone=lambda: True)
    assert predictor.answer([left])[0].text == "worse"
    assert asked_again(predictor) == []


def test_without_a_schema_greedy_stays_greedy_and_streams(folder):
    predictor = scripted(folder, "good good…", ["any"], schema=None)
    assert predictor.answer([FIRST])[0].text == "good good…"
    assert asked_again(predictor) == []
    assert "".join(predictor.stream(FIRST)) == "good good…"
    assert len(list(predictor.stream(FIRST))) > 1


def test_a_stream_returns_the_completion_of_its_answer(folder):
    predictor = scripted(folder, "good", [], schema=None)
    pieces, ends = [], []

    def listen():
        ends.append((yield from predictor.stream_answer(FIRST)))

    pieces += listen()
    assert ends == predictor.answer([FIRST])
    assert "".join(pieces) == ends[0].text == "good"


def test_the_second_attempt_of_a_real_model_is_the_best_of_greedy_and_its_beams(folder):
    decoding = {"max_new_tokens": 8, "answers": 4}
    contract = replace(read_contract(folder), decoding=decoding, slot_schema=word_schema("never"))
    predictor = TransformersPredictor(folder, contract, device="cpu")
    plain = predictor.using({"max_new_tokens": 8, "answers": 1})
    assert plain.schema is predictor.schema  # reading one again would keep a service waiting
    assert [a.text for a in predictor.answer(REQUESTS)] == [a.text for a in plain.answer(REQUESTS)]
    beams = predictor.using({"max_new_tokens": 8, "method": "beam", "beams": 4})
    texts = [answer.text for answer in beams.answer_many([FIRST], 4)[0]]
    word = next(text for text in texts if text not in plain.answer([FIRST])[0].text).strip()
    predictor.use(replace(contract, slot_schema=word_schema(word)))
    assert word in predictor.answer([replace(FIRST, slots={"word": "it"})])[0].text


def test_the_second_attempt_shows_the_same_examples(folder):
    shots = object()
    contract = replace(
        read_contract(folder),
        decoding={"max_new_tokens": 8, "answers": 2},
        slot_schema=word_schema("never"),
    )
    one = TransformersPredictor(folder, contract, device="cpu")
    given = (one.model, one.ends, one.prompts, one.contract)
    assert TransformersPredictor.around(*given, shots).second.shots is shots
