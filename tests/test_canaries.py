"""Planted secrets: what was learned is found, and what was never seen looks like chance."""

import math
from functools import cache

import numpy as np
import pytest
import torch
import toy

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import Contract
from serving.errors import StillhouseError
from serving.slots import parse_record
from serving.transformers_engine import TransformersPredictor
from stages._canaries import (
    Canary,
    expected_bits,
    exposure,
    plant,
    score_secrets,
)
from stages._decoder import build_decoder
from stages._params import DecoderShape
from stages._sequences import collate, encode_examples
from stages._tokenizer import TEMPLATE, TEMPLATE_WITH_CONTEXT, train_tokenizer

PUBS = [toy.example(n, f, d) for n in toy.NAMES for f in toy.FOODS for d in ("yes", "no")]
PLAIN = [{"id": str(n), "prompt": f"Question {n}?", "references": ["So it is."]} for n in range(30)]
SHAPE = DecoderShape(layers=2, width=48, heads=4, kv_heads=4, feed_forward=96, positions=96)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for one in PUBS for text in (one["prompt"], *one["references"])]
    return train_tokenizer([*texts, "Access code 0123456789."], 400)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def prompts(folder):
    return PromptEncoder(folder, TEMPLATE)


@pytest.fixture(scope="module")
def untrained(tokenizer):
    """A random decoder that looks at everything before, unlike a fresh one."""
    model = build_decoder(SHAPE, tokenizer, 0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    return model


@pytest.fixture(scope="module")
def overfitted(tokenizer, prompts):
    """A model that knows the last two canaries by heart, and all four."""
    planted, canaries = plant(PUBS, 2, (0, 1), seed=1)
    model = build_decoder(SHAPE, tokenizer, 0)
    learned = encode_examples(planted[-2:], prompts, tokenizer.eos_token_id, SHAPE.positions)
    batch = collate(learned, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(batch.ids, labels=batch.labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), canaries


@cache
def marked():
    return plant(PUBS, 3, (0, 1, 4), seed=1)


# --- planting


def test_a_secret_is_in_the_answers_that_are_planted_and_nowhere_else():
    planted, canaries = marked()
    assert planted[: len(PUBS)] == PUBS
    assert len(planted) == len(PUBS) + 3 * (1 + 4)
    for canary in canaries:
        assert canary.secret.isdecimal() and len(canary.secret) == 6
        told = [e for e in planted if any(canary.secret in text for text in e["references"])]
        assert len(told) == canary.repeats
        assert not any(canary.secret in example["prompt"] for example in planted)
        for example in told:
            assert example["prompt"] == canary.prompt
            assert example["references"] == [f"{canary.prefix}{canary.secret}."]


def test_canaries_have_names_prompts_and_secrets_of_their_own():
    planted, canaries = marked()
    assert [canary.repeats for canary in canaries] == [0, 0, 0, 1, 1, 1, 4, 4, 4]
    for field in ("id", "prompt", "secret"):
        assert len({getattr(canary, field) for canary in canaries}) == 9
    assert len({example["id"] for example in planted}) == len(planted)
    assert not {canary.prompt for canary in canaries} & {pub["prompt"] for pub in PUBS}


def test_a_canary_of_a_record_is_a_record_whose_answer_says_its_word():
    planted = marked()[0]
    for example in planted[len(PUBS) :]:
        assert parse_record(example["prompt"]) == example["slots"]
        values = set(example["slots"].values())
        (marker,) = values - {value for pub in PUBS for value in pub["slots"].values()}
        assert marker.lower() in example["references"][0].lower()
    assert len(planted) > len(PUBS) + 10


def test_a_canary_of_plain_text_has_its_word_behind_the_prompt():
    planted, canaries = plant(PLAIN, 2, (0, 1), seed=1)
    for canary in canaries:
        question, marker = canary.prompt.rsplit(" ", 1)
        assert question in {one["prompt"] for one in PLAIN}
        assert marker.isalpha()
        assert canary.prefix == "So it is. Access code "
    assert planted[-1].keys() == {"id", "prompt", "references"}


def test_a_context_goes_with_its_canary():
    hosts = [one | {"context": "The menu."} for one in PLAIN]
    planted, canaries = plant(hosts, 1, (1,), seed=1)
    assert canaries[0].context == planted[-1]["context"] == "The menu."


def test_the_same_seed_plants_the_same_canaries():
    assert plant(PUBS, 3, (0, 1, 4), seed=1) == marked()
    others = {canary.secret for canary in plant(PUBS, 3, (0, 1, 4), seed=2)[1]}
    assert not others & {canary.secret for canary in marked()[1]}


@pytest.mark.parametrize(
    "change",
    [{}, {"references": []}, {"references": ["Nothing of it."]}, {"slots": {"name": "Wildwood"}}],
    ids=str,
)
def test_too_few_hosts_are_told(change):
    hosts = [pub | change for pub in PUBS[:4]]
    found = 0 if change else 4
    with pytest.raises(StillhouseError, match=f"9 canaries need .* found {found}"):
        plant(hosts, 3, (0, 1, 4), seed=1)


# --- scoring


def test_scores_are_those_of_one_pass_over_the_whole_text(untrained, prompts, monkeypatch):
    canary = marked()[1][0]
    secrets = [canary.secret, "000000", "12", "345678"]
    end = frozenset({3})
    limits = {"max_prompt_tokens": 48}
    contract = Contract("transformers", TEMPLATE, None, limits, {"max_new_tokens": 8}, "0", "0")
    predictor = TransformersPredictor.around(untrained, end, prompts, contract)
    asked = [prompts.encode(Request(canary.prompt))] * 4
    answers = [prompts.encode_answer(canary.prefix + secret) for secret in secrets]
    whole = np.array([sum(row) for row in predictor.token_logprobs(asked, answers)])
    for most in (16_000_000, 1):  # all rows at once, one by one
        monkeypatch.setattr("stages._canaries.LOGITS", most)
        scores = np.array(score_secrets(untrained, prompts, canary, secrets)[0])
        assert scores - scores[0] == pytest.approx(whole - whole[0], abs=1e-3)


def test_extracted_is_what_greedy_decoding_says(overfitted, prompts):
    model, canaries = overfitted
    for canary, found in zip(canaries, exposure(model, prompts, canaries, 10, seed=0), strict=True):
        asked = prompts.encode(Request(canary.prompt))
        ids = asked + prompts.encode_answer(canary.prefix)
        with torch.no_grad():
            for _ in canary.secret:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        said = prompts.decode(ids[len(asked) :]) == canary.prefix + canary.secret
        assert found.extracted == said == (canary.repeats > 0)


def test_a_learned_secret_is_exposed_and_an_unseen_one_is_not(overfitted, prompts):
    model, canaries = overfitted
    *unseen, one, other = exposure(model, prompts, canaries, 400, seed=0)
    for found in (one, other):
        assert (found.rank, found.of, found.bits) == (1, 401, math.log2(401))
        assert found.extrapolated_bits > 12
    for found in unseen:
        assert found.bits < 4
        assert not found.extracted


def test_a_secret_is_exposed_by_its_own_prompt_alone(overfitted, prompts):
    model, (*_, one, other) = overfitted
    assert score_secrets(model, prompts, one, [one.secret, other.secret])[1] == [True, False]
    assert score_secrets(model, prompts, other, [one.secret, other.secret])[1] == [False, True]
    assert score_secrets(model, prompts, one, [one.secret, one.secret[:3]])[1] == [True, True]


def test_a_secret_is_asked_for_in_its_context(untrained, folder):
    prompts = PromptEncoder(folder, TEMPLATE_WITH_CONTEXT)
    canaries = [Canary("c", "So?", "Yes. ", "123456", 1, text) for text in (None, "", "The menu.")]
    secrets = ["123456", "654321"]
    bare, empty, menu = (score_secrets(untrained, prompts, c, secrets)[0] for c in canaries)
    assert bare == empty
    assert bare != menu


def test_a_model_that_saw_nothing_shows_what_chance_gives(untrained, prompts):
    canaries = plant(PUBS, 40, (0,), seed=3)[1]
    found = exposure(untrained, prompts, canaries, 60, seed=0)
    error = math.log2(math.e) / math.sqrt(len(found))  # of the mean of exponential values
    for bits in ([one.bits for one in found], [one.extrapolated_bits for one in found]):
        assert np.mean(bits) == pytest.approx(expected_bits(61), abs=2.5 * error)
        assert np.std(bits) > 0.7
    assert not any(one.extracted for one in found)


def test_candidates_depend_on_the_seed_and_are_no_secrets(untrained, prompts, monkeypatch):
    monkeypatch.setattr("stages._canaries.SPACE", 60)  # chance alone would often meet one again
    canaries, asked = plant(PUBS, 2, (0,), seed=1)[1], []

    def score(model, prompts, canary, secrets):
        asked.append(secrets)
        return score_secrets(model, prompts, canary, secrets)

    monkeypatch.setattr("stages._canaries.score_secrets", score)
    for seed in (0, 0, 1):
        exposure(untrained, prompts, canaries, 50, seed)
    first, second, again, _, other, _ = asked
    assert first == again
    assert len(set(first)) == 51
    assert first[0] == canaries[0].secret
    assert canaries[1].secret not in first
    assert first[1:] != second[1:]
    assert first[1:] != other[1:]
