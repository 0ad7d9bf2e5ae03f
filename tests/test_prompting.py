"""The prompt that is chosen is the best for its price, and examples never give an answer away."""

import json
from dataclasses import replace

import pytest
import toy
from tiny_models import tiny_tokenizer

from serving._prompts import PromptEncoder
from serving.completion import Completion, Request
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages._params import Prompting
from stages._prompting import RETRIEVAL, build_shots, choose_prompt, render_prompts

SCHEMA = SlotSchema.from_dict(toy.SCHEMA)
TRAIN = [toy.example(n, f, d) for n in toy.NAMES for f in toy.FOODS for d in ("yes", "no")]
ASKED = [toy.example(n, f, d) for n in ("Zizzi", "Aromi") for f in toy.FOODS for d in ("yes", "no")]
LONG = "You write for a guide to pubs, in English. Say what this record says: {prompt}"
SHORT = "Say: {prompt}"


def teacher_of(**writers):
    """A teacher that writes as the first writer whose mark is in the prompt; counts words."""
    seen = []

    def ask(prompts):
        seen.append(prompts)
        return [answer(prompt) for prompt in prompts]

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


def choose(ask, templates, shots=(0,), schema=SCHEMA, prompts=16):
    settings = Prompting(templates=templates, shots=shots, validation_prompts=prompts)
    return choose_prompt(ask, settings, TRAIN, ASKED, schema, seed=1)


def test_the_better_template_wins_although_it_is_longer():
    ask, _ = teacher_of(guide=good, Say=clumsy)
    choice = choose(ask, (SHORT, LONG))
    assert (choice.template, choice.shots) == (LONG, 0)
    worse, best = choice.table
    assert best["bleu"]["score"] == pytest.approx(100.0)
    assert worse["quality_to_best"]["high"] < 0.0
    assert worse["prompt_tokens_per_answer"]["score"] < best["prompt_tokens_per_answer"]["score"]


def test_of_templates_that_are_not_certainly_worse_the_shortest_wins():
    ask, _ = teacher_of(guide=good, Say=wrong_in_one_of(20))  # one clumsy answer of 16
    choice = choose(ask, (LONG, SHORT))
    assert choice.template == SHORT
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
    answers = [len(good(example).split()) for example in ASKED[:10]]
    said = choice.table[0]["completion_tokens_per_answer"]["score"]
    assert said == pytest.approx(sum(answers) / 10)


def test_the_table_is_json_and_the_hash_tells_variants_apart():
    ask, _ = teacher_of(Say=good)
    choice = choose(ask, ("{shots}" + SHORT, SHORT), shots=(0, 1, 3))
    assert json.loads(json.dumps(choice.table, allow_nan=False)) == choice.table
    digests = [row["digest"] for row in choice.table]
    assert len({*digests}) == len(digests) == 4
    chosen = next(row for row in choice.table if row["chosen"])
    assert choice.digest == chosen["digest"]
    assert replace(choice, shots=choice.shots + 1).digest != choice.digest
    assert choose(ask, ("{shots}" + SHORT, SHORT), shots=(0, 1, 3)) == choice


def test_examples_come_in_the_stated_format_nearest_last():
    shots = build_shots(TRAIN, SCHEMA, 2)
    text = shots.context_for([Request("name[Zizzi], food[curry], dogs[no]")])[0]
    first, second, rest = text.split("\n\n")
    assert rest == ""
    assert second.splitlines() == [
        "Input: name[The Eagle], food[curry], dogs[no]",
        "Output: The Eagle serves curry and dogs must stay outside.",
    ]
    assert "food[curry], dogs[no]" in first
    assert RETRIEVAL.startswith("Input: {prompt}\nOutput: {answer}\n\n")


def test_examples_never_include_the_asked_one():
    shots = build_shots(TRAIN, SCHEMA, len(TRAIN))
    turned = [", ".join(reversed(e["prompt"].split(", "))).upper() for e in TRAIN]
    lower = [text.replace("NAME", "name").replace("FOOD", "food") for text in turned]
    for prompts in ([e["prompt"] for e in TRAIN], [t.replace("DOGS", "dogs") for t in lower]):
        contexts = shots.context_for([Request(prompt) for prompt in prompts])
        for example, context in zip(TRAIN, contexts, strict=True):
            assert context.count("Input: ") == len(TRAIN) - 1
            assert example["prompt"] + "\n" not in context


def test_examples_to_leave_out_are_named_by_id():
    shots = build_shots(TRAIN, SCHEMA, 1)
    request = Request("name[Zizzi], food[pies], dogs[yes]")
    nearest = TRAIN[6]
    assert nearest["prompt"] in shots.context_for([request])[0]
    without = shots.context_for([request], leave_out=[nearest["id"]])[0]
    assert without.count("Input: ") == 1
    assert nearest["prompt"] not in without


def test_of_two_references_the_cleaner_one_is_shown():
    train = [e | {"references": ["Nice place.", e["references"][1]]} for e in TRAIN]
    shown = build_shots(train, SCHEMA, 3).context_for([Request(ASKED[0]["prompt"])])[0]
    assert "Nice place." not in shown
    assert shown.count("Output: At ") == 3


@pytest.mark.parametrize("text", ["name[{shots}], food[fish]", "name[{prompt} {context}]"])
def test_what_is_asked_is_what_the_winner_serves(tmp_path, text):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    ask, _ = teacher_of(Say=good)
    choice = choose(ask, ("{shots}Say: {prompt}",), shots=(2,))
    asked = {"prompt": text, "slots": {"name": "The {Mill}", "food": "fish"}}
    shots = build_shots(TRAIN, SCHEMA, choice.shots)
    rendered = render_prompts(choice.template, [asked], shots)[0]
    request = Request(text, asked["slots"])
    served = replace(request, context=shots.context_for([request])[0])
    encoder = PromptEncoder(tmp_path, choice.serving_template)
    assert encoder.decode(encoder.encode(served)) == rendered
    assert rendered.count("Input: ") == 2
    assert rendered.endswith(f"Say: {text}")


def test_context_of_a_row_goes_into_the_template_and_leaves_no_place_for_examples():
    asked = [{"prompt": "Who?", "context": "Ann came.", "references": ["Ann."]}]
    shots = build_shots(TRAIN, None, 1)
    assert render_prompts("{context} {prompt}", asked, shots) == ["Ann came. Who?"]
    with pytest.raises(StillhouseError, match="no place for examples"):
        render_prompts("{shots} {prompt}", asked, shots)


def test_all_mistakes_of_templates_are_told_in_one_line():
    ask, seen = teacher_of(Say=good)
    with pytest.raises(StillhouseError) as caught:
        choose(ask, ("Say it", "{shots}{context}{prompt}"))
    assert "'Say it' needs {prompt} once" in str(caught.value)
    assert "'{shots}{context}{prompt}' needs" in str(caught.value)
    for templates, shots in (((), (0,)), ((SHORT,), ()), ((SHORT,), (0, 4))):
        with pytest.raises(StillhouseError, match="prompting: "):
            choose(ask, templates, shots)
    assert seen == []
