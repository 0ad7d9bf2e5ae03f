"""The ctranslate2 engine answers what the transformers engine answers, in any batch."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from converted_models import write_converted
from tiny_models import word_schema, write_model

from serving._ctranslate2_generation import draw
from serving._decoding import Decoding
from serving.completion import Request
from serving.contract import read_contract
from serving.ctranslate2_engine import CTranslate2Predictor
from serving.slots import SlotSchema
from serving.transformers_engine import TransformersPredictor

pytest.importorskip("ctranslate2")

EARLY_ENDS = frozenset(range(2, 300, 12))  # so many that answers end at different steps
KINDS = ["llama", "qwen2", "gpt2"]
TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "The Mill serves {curry}…", "eu-west-1 1.8"]
REQUESTS = [Request(text) for text in TEXTS]
SAMPLE = {"method": "sample", "seed": 3, "top_p": 0.9, "temperature": 0.8}
SETTINGS = [{}, {"method": "beam", "beams": 3}, SAMPLE]
NAMES = ["greedy", "beam", "sample"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_converted(root / f"{kind}-ct2", write_model(root / kind, kind))
    return root


def both(folders, kind, ends=EARLY_ENDS, template=None, **decoding):
    """The predictors of one model under both engines."""
    made = []
    for name, engine in ((f"{kind}-ct2", CTranslate2Predictor), (kind, TransformersPredictor)):
        contract = read_contract(folders / name)
        contract = replace(
            contract,
            decoding={**contract.decoding, **decoding},
            prompt_template=template or contract.prompt_template,
        )
        made.append(engine(folders / name, contract, device="cpu"))
        made[-1].ends = ends or made[-1].ends
    return made


def converted(folders, kind="llama", ends=None, **decoding):
    return both(folders, kind, ends, **decoding)[0]


def assert_same(found, expected):
    """The same completions, log-probabilities up to rounding."""
    for here, there in zip(found, expected, strict=True):
        facts = ("text", "prompt_tokens", "completion_tokens", "finish_reason")
        assert [getattr(here, f) for f in facts] == [getattr(there, f) for f in facts]
        assert here.mean_logprob == pytest.approx(there.mean_logprob, abs=1e-4)
        assert here.min_logprob == pytest.approx(there.min_logprob, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoding", [{}, SAMPLE], ids=["greedy", "sample"])
def test_answers_are_those_of_the_transformers_engine(folders, kind, decoding):
    found, expected = (p.answer(REQUESTS) for p in both(folders, kind, **decoding))
    assert_same(found, expected)
    assert len({c.text for c in found}) > 2, "the models must not answer everything alike"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoding", SETTINGS, ids=NAMES)
def test_a_batch_keeps_its_order_and_equals_single_answers(folders, kind, decoding):
    predictor = converted(folders, kind, EARLY_ENDS, **decoding)
    batch = predictor.answer(REQUESTS)
    assert len({c.completion_tokens for c in batch}) > 1, "some rows must end before others"
    assert_same(batch, [predictor.answer([request])[0] for request in REQUESTS])
    assert predictor.answer([]) == []


@pytest.mark.parametrize("decoding", SETTINGS, ids=NAMES)
def test_a_stream_joins_to_the_answer(folders, decoding):
    predictor = converted(folders, **decoding)
    for request, completion in zip(REQUESTS, predictor.answer(REQUESTS), strict=True):
        pieces = list(predictor.stream(request))
        assert "".join(pieces) == completion.text
        assert "" not in pieces
        if decoding.get("method") != "beam":
            assert len(pieces) > 1, "greedy and sampled answers come piece by piece"


def test_a_stream_that_is_left_early_leaves_the_engine_free(folders):
    predictor = converted(folders)
    expected = predictor.answer(REQUESTS[:1])
    stream = predictor.stream(REQUESTS[1])
    next(stream)
    stream.close()
    assert predictor.answer(REQUESTS[:1]) == expected


def test_an_answer_stops_at_its_end_token_or_at_the_length_limit(folders):
    predictor = converted(folders, max_new_tokens=6)
    ((tokens, _),) = predictor.decode(predictor.encode(REQUESTS[1:2]), REQUESTS[1:2], 1)[0]
    cut = predictor.answer([REQUESTS[1]])[0]
    assert (cut.finish_reason, cut.completion_tokens, len(tokens)) == ("length", 6, 6)
    predictor.ends = frozenset({tokens[3]})
    place = tokens.index(tokens[3]) + 1
    for batch in (REQUESTS, REQUESTS[:2]):
        stopped = predictor.answer(batch)[1]
        assert (stopped.finish_reason, stopped.completion_tokens) == ("stop", place)


@pytest.mark.parametrize("decoding", [{}, {"method": "beam", "beams": 2}], ids=["greedy", "beam"])
def test_a_prompt_of_one_token_is_no_part_of_its_answer(folders, decoding):
    ct2, plain = both(folders, "qwen2", template="{prompt}", max_new_tokens=6, **decoding)
    requests = [Request("f"), *REQUESTS]
    assert len(ct2.encode(requests)[0]) == 1
    found = ct2.answer(requests)
    assert_same(found, [ct2.answer([request])[0] for request in requests])
    if not decoding:
        assert_same(found, plain.answer(requests))


def test_the_best_beam_is_at_least_as_likely_as_the_greedy_answer(folders):
    greedy = converted(folders, max_new_tokens=8).answer(REQUESTS)
    settings = {"method": "beam", "beams": 8, "length_penalty": 0.0, "max_new_tokens": 8}
    beams = converted(folders, **settings).answer(REQUESTS)
    totals = [[c.mean_logprob * c.completion_tokens for c in some] for some in (beams, greedy)]
    assert all(beam >= other - 1e-4 for beam, other in zip(*totals, strict=True))
    assert any(beam > other + 1e-2 for beam, other in zip(*totals, strict=True))


@pytest.mark.parametrize("method", ["beam", "sample"])
def test_several_answers_differ_and_the_likeliest_is_first(folders, method):
    beams = 4 if method == "beam" else 1
    settings = {"method": method, "beams": beams, "length_penalty": 0.0, "max_new_tokens": 8}
    predictor = converted(folders, "qwen2", **settings)
    many = predictor.answer_many(REQUESTS, 4)
    for answers in many:
        totals = [answer.mean_logprob * answer.completion_tokens for answer in answers]
        assert 1 < len(answers) <= 4
        assert len({answer.text for answer in answers}) == len(answers)
        assert totals == sorted(totals, reverse=True)
    single = [predictor.answer_many([request], 4)[0] for request in REQUESTS]
    assert [[a.text for a in some] for some in many] == [[a.text for a in s] for s in single]


def test_small_batches_answer_like_one_large_batch(folders):
    small = converted(folders, batch_tokens=70).answer(REQUESTS)
    assert_same(small, converted(folders, batch_tokens=10_000).answer(REQUESTS))


def test_token_logprobs_are_those_of_the_transformers_engine(folders):
    ct2, plain = both(folders, "gpt2")
    prompts = ct2.encode(REQUESTS)
    answers = [[7, 8, 9], [], [10], [11] * 20, [2]]
    found, expected = (p.token_logprobs(prompts, answers) for p in (ct2, plain))
    assert [len(row) for row in found] == [3, 0, 1, 20, 1]
    for here, there in zip(found, expected, strict=True):
        assert here == pytest.approx(there, abs=1e-4)


def test_greedy_is_asked_again_with_beams_where_its_answer_has_slot_errors(folders):
    settings = {"max_new_tokens": 8, "answers": 4}
    plain = converted(folders, **settings)
    first, *rest = plain.answer(REQUESTS)
    beams = converted(folders, max_new_tokens=8, method="beam", beams=4)
    others = [answer.text for answer in beams.answer_many(REQUESTS[:1], 4)[0]]
    word = next(text for text in others if text not in first.text).strip()
    contract = replace(plain.contract, slot_schema=word_schema(word))
    predictor = CTranslate2Predictor(folders / "llama-ct2", contract, device="cpu")
    wanted = [replace(r, slots={"word": "it"} if r is REQUESTS[0] else {}) for r in REQUESTS]
    chosen, *same = predictor.answer(wanted)
    assert word in chosen.text and word not in first.text
    assert [answer.text for answer in same] == [answer.text for answer in rest]
    assert list(predictor.stream(wanted[0])) == [chosen.text]


def test_the_sample_with_the_fewest_slot_errors_is_given(folders):
    predictor = converted(folders, method="sample", answers=24)
    found = [a for a in predictor.answer_many(REQUESTS, 24)[0] if a.finish_reason == "stop"]
    words = re.findall(r"[A-Za-z]{2,}", " ".join(answer.text for answer in found[1:]))
    word = next(word for word in words if word not in found[0].text)
    predictor.schema = SlotSchema.from_dict(word_schema(word))
    chosen = predictor.answer([replace(REQUESTS[0], slots={"word": "it"})])[0]
    assert word in chosen.text and word not in found[0].text


def test_a_draw_inverts_the_cumulative_distribution_of_the_nucleus():
    logits = np.tile(np.log(np.array([0.1, 0.6, 0.3], np.float32)), (5, 1))
    chances = np.array([0.0, 0.59, 0.61, 0.95, 1.0])
    everything = Decoding(max_new_tokens=1, method="sample")
    assert draw(logits, chances, everything).tolist() == [1, 1, 2, 0, 0]
    nucleus = replace(everything, top_p=0.7)  # 0.6 and 0.3 remain: 2/3 and 1/3
    assert draw(logits, chances, nucleus).tolist() == [1, 1, 1, 2, 2]
    cold = replace(everything, temperature=0.5)  # 0.36 : 0.09 : 0.01 of 0.46
    assert draw(logits, np.array([0.0, 0.78, 0.79, 0.97, 0.98]), cold).tolist() == [1, 1, 2, 2, 0]


def test_the_engine_answers_without_torch(folders):
    code = (
        "import sys; from pathlib import Path; from serving.predictor import load; "
        "from serving.completion import Request; "
        "print(load(Path(sys.argv[1])).answer([Request('fish')])[0].completion_tokens); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    folder = str(folders / "llama-ct2")
    ended = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) == converted(folders).answer(REQUESTS[:1])[0].completion_tokens
