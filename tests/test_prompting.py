"""The prompt that is chosen is the best for its price."""

import json
from dataclasses import replace

import pytest
import toy
from pydantic import ValidationError

from serving._prompts import render
from serving._shots import build_shots, prompt_digest
from serving.completion import Completion, Request
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages._params import Params, Prompting
from stages._prompting import choose_prompt

SCHEMA = SlotSchema.from_dict(toy.SCHEMA)
TRAIN = [toy.example(n, f, d) for n in toy.NAMES for f in toy.FOODS for d in ("yes", "no")]
ASKED = [toy.example(n, f, d) for n in ("Zizzi", "Aromi") for f in toy.FOODS for d in ("yes", "no")]
SHOTS = build_shots(TRAIN, SCHEMA, 0)
LONG = "You write for a guide to pubs, in English. Say what this record says: {prompt}"
SHORT = "Say: {prompt}"
PRICE_USD = 0.25  # per answer


def teacher_of(**writers):
    """A teacher that writes as the first writer whose mark is in the prompt; counts words."""
    seen = []

    def ask(template, count, asked):
        requests = [Request(example["prompt"], example["slots"]) for example in asked]
        shown = replace(SHOTS, count=count).near(requests)
        pairs = zip(requests, shown, strict=True)
        prompts = [render(template, request, "".join(texts)) for request, texts in pairs]
        seen.append(prompts)
        return [answer(prompt) for prompt in prompts], PRICE_USD * len(prompts)

    def answer(prompt):
        example = max(
            (e for e in (*ASKED, *TRAIN) if e["prompt"] in prompt),
            key=lambda e: prompt.rindex(e["prompt"]),
        )
        write = next(write for mark, write in writers.items() if mark in prompt)
        text = write(example)
        return Completion(text, len(prompt.split()), len(text.split()), "stop", None)

    return ask, seen


def good(example):
    return example["references"][0]


def clumsy(example):
    name, food, dogs = example["slots"].values()
    said = "dogs are welcome" if dogs == "yes" else "dogs must stay outside"
    return f"There it has been heard that in {name} one may eat {food}, where {said} indeed."


def fluent_but_wrong(example):
    return example["references"][0].replace("Zizzi", "Aromi")


def wrong_in_one_of(count):
    numbers = {example["id"]: number for number, example in enumerate(ASKED)}
    return lambda e: clumsy(e) if numbers[e["id"]] % count == 0 else good(e)


def choose(ask, templates, shots=(0,), schema=SCHEMA, prompts=16, complete=str):
    settings = Prompting(templates=templates, shots=shots, validation_prompts=prompts)
    return choose_prompt(ask, settings, complete, ASKED, schema, seed=1)


def test_the_better_template_wins_although_it_is_longer():
    ask, _ = teacher_of(guide=good, Say=clumsy)
    choice = choose(ask, (SHORT, LONG))
    assert (choice.template, choice.shots) == (LONG, 0)
    assert choice.why == "beats every other variant for certain"
    worse, best = choice.table
    assert best["bleu"]["score"] == pytest.approx(100.0)
    assert worse["quality_to_best"]["high"] < 0.0
    assert worse["prompt_tokens_per_answer"]["score"] < best["prompt_tokens_per_answer"]["score"]


def test_of_templates_that_are_not_certainly_worse_the_shortest_wins():
    ask, _ = teacher_of(guide=good, Say=wrong_in_one_of(20))  # one clumsy answer of 16
    choice = choose(ask, (LONG, SHORT))
    assert choice.template == SHORT
    assert choice.why.startswith("shortest prompts of the 2 variants")
    longer, chosen = choice.table
    assert (longer["best"], longer["chosen"]) == (True, False)
    assert chosen["quality"]["score"] < longer["quality"]["score"]
    assert chosen["quality_to_best"]["low"] < 0.0 <= chosen["quality_to_best"]["high"]


def test_slot_errors_count_and_only_where_there_are_slots():
    ask, _ = teacher_of(guide=fluent_but_wrong, Say=clumsy)
    wrong, right = choose(ask, (LONG, SHORT)).table
    assert wrong["bleu"]["score"] > right["bleu"]["score"]
    assert wrong["slot_error_rate"]["score"] > right["slot_error_rate"]["score"] == 0.0
    measure = wrong["bleu"]["score"] - 100 * wrong["slot_error_rate"]["score"]
    assert wrong["quality"]["score"] == pytest.approx(measure)
    assert wrong["quality"]["low"] < measure < wrong["quality"]["high"]
    wrong, right = choose(ask, (LONG, SHORT), schema=None).table
    assert "slot_error_rate" not in wrong
    assert wrong["quality"]["score"] == wrong["bleu"]["score"]


def test_slot_errors_can_outweigh_fluency():
    ask, _ = teacher_of(guide=lambda _: good(ASKED[0]), Say=clumsy)
    choice = choose(ask, (LONG, SHORT))
    fluent, right = choice.table
    assert fluent["bleu"]["low"] > right["bleu"]["high"]
    assert choice.template == SHORT
    assert choose(ask, (LONG, SHORT), schema=None).template == LONG


def test_every_variant_answers_the_same_first_prompts_and_costs_what_the_teacher_says():
    ask, seen = teacher_of(guide=good, Say=good)
    choice = choose(ask, (LONG, "{shots}" + SHORT), shots=(0, 2), prompts=10)
    variants = [(row["template"], row["shots"]) for row in choice.table]
    assert variants == [(LONG, 0), ("{shots}" + SHORT, 0), ("{shots}" + SHORT, 2)]
    for prompts, row in zip(seen, choice.table, strict=True):
        assert [p.rpartition(": ")[2] for p in prompts] == [e["prompt"] for e in ASKED[:10]]
        words = sum(len(prompt.split()) for prompt in prompts) / 10
        assert row["prompt_tokens_per_answer"]["score"] == pytest.approx(words)
        assert row["cost_usd"] == 10 * PRICE_USD
    answers = [len(good(example).split()) for example in ASKED[:10]]
    said = choice.table[0]["completion_tokens_per_answer"]["score"]
    assert said == pytest.approx(sum(answers) / 10)
    assert choice.to_dict()["cost_usd"] == 30 * PRICE_USD


def test_the_report_is_json_and_the_hash_tells_variants_apart():
    ask, _ = teacher_of(Say=good)
    choice = choose(ask, ("{shots}" + SHORT, SHORT), shots=(0, 1, 3))
    report = choice.to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    digests = [row["prompt_sha256"] for row in choice.table]
    assert len({*digests}) == len(digests) == 4
    chosen = next(row for row in choice.table if row["chosen"])
    assert report["prompt_sha256"] == chosen["prompt_sha256"]
    assert report["prompt_sha256"] == prompt_digest(choice.template, choice.shots)
    assert choose(ask, ("{shots}" + SHORT, SHORT), shots=(0, 1, 3)) == choice


def test_templates_stand_inside_the_model_s_own():
    ask, seen = teacher_of(Say=good)
    choice = choose(ask, (SHORT,), complete=lambda text: f"<user>{text}</user>")
    assert choice.template == "<user>Say: {prompt}</user>"
    assert choice.why == "the only variant"
    assert seen[0][0] == f"<user>Say: {ASKED[0]['prompt']}</user>"
    with pytest.raises(StillhouseError, match="no validation prompt"):
        choose_prompt(ask, Prompting(templates=(SHORT,)), str, [], SCHEMA, seed=1)
    with pytest.raises(StillhouseError, match=r"has \{context\} more than once"):
        choose(ask, (SHORT + "{context}",), complete=lambda text: "{context}" + text)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("templates", "shots", "message"),
    [
        (("Say it", "{prompt}{prompt}"), (0,), "'Say it' needs {prompt} once.*; '{prompt}{prompt}"),
        (("{shots}{shots}{prompt}",), (0,), "{shots} and {context} at most once"),
        ((SHORT,), (0, 4), r"shots \[0, 4\]: no template has a place for {shots}"),
        ((), (0,), "at least 1 item"),
        ((SHORT,), (), "at least 1 item"),
        ((SHORT,), (-1,), "greater than or equal to 0"),
    ],
)
def test_mistakes_of_templates_are_told_before_any_work(templates, shots, message):
    with pytest.raises(ValidationError, match=message):
        Prompting(templates=templates, shots=shots)


def test_only_teachers_that_are_not_trained_have_a_choice():
    prompting = {"templates": [SHORT]}
    model = {"model": "models/mine", "tuning": "none"}
    server = {"base_url": "https://host/v1", "model": "x"}
    for section in (
        {"source": "pretrained", "pretrained": model},
        {"source": "endpoint", "endpoint": server},
    ):
        assert Params.model_validate({"teacher": section | {"prompting": prompting}})
    tuned = {"source": "pretrained", "pretrained": model | {"tuning": "lora"}}
    for section, found in (
        ({"source": "scratch"}, "scratch"),
        (tuned, "pretrained with tuning lora"),
    ):
        with pytest.raises(ValidationError, match=f"found {found}: .*, remove prompting"):
            Params.model_validate({"teacher": section | {"prompting": prompting}})
