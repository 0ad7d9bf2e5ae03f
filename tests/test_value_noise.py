"""Made-up values: record and reference change together, and nothing else changes."""

import re
from pathlib import Path

import numpy as np
import pytest
import toy

from serving.slots import SlotSchema, check_answer, parse_record, render_record
from stages._incidents import IncidentCounts, generate
from stages._params import read_yaml
from stages._value_noise import (
    CODED,
    COINED,
    find_open_slots,
    invent_value,
    invent_values,
    replace_values,
    word_bank,
)

ROOT = Path(__file__).parent.parent
SCHEMA = SlotSchema.from_dict(read_yaml(ROOT / "configs/schemas/incidents.yaml"))
TRAIN = generate(5, IncidentCounts(300, 10, 10, 10))["train"]
SINGLE = [row | {"references": [text]} for row in TRAIN for text in row["references"]]
KEPT = ["value", "threshold", "start", "duration", "customers"]  # quantities
KEPT += ["severity", "data_loss", "workaround", "status"]  # choices
CODE = re.compile(r"\d([a-z])\1+|([AEIO])\2+\d")  # such as 5xx
BANK = word_bank(TRAIN, find_open_slots(TRAIN))


def example(reference, **slots):
    return {"prompt": render_record(slots), "slots": slots, "references": [reference]}


def noised(one, share=1.0, seed=1):
    """What becomes of an example among many that make its slots open."""
    return invent_values([*TRAIN, one], share, seed)[-1]


def replaced(reference, slots, new):
    found = replace_values(example(reference, **slots), reference, new)
    return found and (found[0]["prompt"], found[1])


def rewritten(text, old, new):
    """The text with every old value replaced by the new one of its slot, all in small letters."""
    known = {value.lower(): new[slot].lower() for slot, value in old.items()}
    longest = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)({longest})(?!\w)", lambda m: known[m[0]], text.lower())


def shape(value):
    """The value with each word as w, Ww or W by its capitals, and each digit as 0."""
    kinds = {True: "W", False: "w"}
    value = re.sub(r"\d", "0", value)
    return re.sub(
        r"[^\W\d_]{2,}", lambda m: "Ww" if m[0].istitle() else kinds[m[0].isupper()], value
    )


@pytest.fixture(scope="module")
def pairs():
    """Each pair before and after, all copied values replaced."""
    made = invent_values(TRAIN, 1.0, seed=1)
    return list(zip(SINGLE, made, strict=True))


# --- what changes


def test_prompt_slots_and_reference_change_together(pairs):
    changed = 0
    for before, after in pairs:
        assert parse_record(after["prompt"]) == after["slots"]
        assert after["slots"].keys() == before["slots"].keys()
        for slot, value in after["slots"].items():
            if value != before["slots"][slot]:
                changed += 1
                assert before["slots"][slot].lower() in before["references"][0].lower()
                assert value.lower() in after["references"][0].lower()
    assert changed > 2 * len(pairs)


def test_nothing_else_of_the_text_changes(pairs):
    for before, after in pairs:
        (told,), (tells,) = before["references"], after["references"]
        assert rewritten(told, before["slots"], after["slots"]) == tells.lower()
        assert after["prompt"].count(", ") == before["prompt"].count(", ")
        assert {k: v for k, v in after.items() if k not in ("prompt", "slots", "references")} == {
            k: v for k, v in before.items() if k not in ("prompt", "slots", "references")
        }


def test_quantities_and_choices_stay_and_all_others_change(pairs):
    changed = {
        slot
        for before, after in pairs
        for slot, value in before["slots"].items()
        if after["slots"][slot] != value
    }
    assert changed == {"service", "symptom", "metric", "region", "cause", "action"}
    assert {slot for before, _ in pairs for slot in before["slots"]} == changed | set(KEPT)


def test_the_slot_check_finds_no_new_errors(pairs):
    checked = 0
    for before, after in pairs:
        if not check_answer(before["references"][0], before["slots"], SCHEMA).errors:
            found = check_answer(after["references"][0], after["slots"], SCHEMA)
            assert not found.errors, (after["references"], after["slots"], found)
            checked += 1
    assert checked > 500


def test_an_article_before_a_value_stays_right(pairs):
    article = re.compile(r"\b(a|an) (\w)", re.IGNORECASE)
    known = {"a u", "an h"}  # "a user", "an hour"
    for before, after in pairs:
        fine = {m[0].lower() for m in article.finditer(before["references"][0])} | known
        for match in article.finditer(after["references"][0]):
            right = (match[1].lower() == "an") == (match[2].lower() in "aeiou")
            assert right or match[0].lower() in fine, after["references"]


# --- how much


def test_a_share_of_0_gives_the_same_examples():
    assert invent_values(TRAIN, 0.0, seed=1) == TRAIN


def test_a_share_of_the_copied_values_is_replaced(pairs):
    def count(made):
        slots = zip((one["slots"] for one in SINGLE), (one["slots"] for one in made), strict=True)
        return sum(old[slot] != new[slot] for old, new in slots for slot in old)

    every = count(after for _, after in pairs)
    for share in (0.1, 0.5):
        assert count(invent_values(TRAIN, share, seed=1)) / every == pytest.approx(share, rel=0.15)


def test_the_same_arguments_give_the_same_examples():
    first, again, other = (invent_values(TRAIN, 0.5, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_given_examples_are_not_touched():
    one, copy = (example("checkout-api is down.", service="checkout-api") for _ in "ab")
    assert noised(one) != copy
    assert one == copy


def test_few_values_make_no_noise():
    pubs = [toy.example(n, f, d) for n in toy.NAMES for f in toy.FOODS for d in ("yes", "no")]
    assert find_open_slots(pubs) == frozenset()
    assert invent_values(pubs, 1.0, seed=1) == pubs


# --- what stays


@pytest.mark.parametrize(
    "one",
    [
        {"prompt": "Is checkout-api down?", "references": ["checkout-api is down.", "It is."]},
        {"prompt": "Is checkout-api down?", "slots": {"service": "checkout-api"}},
        {"prompt": "service[checkout-api]", "slots": {"service": "orders-db"}},
        {"prompt": "service[checkout-api]"},
        example("checkout-api is down.", service="checkout-api") | {"context": "checkout-api"},
    ],
    ids=["plain", "plain with slots", "other slots", "no slots", "context"],
)
def test_what_is_no_whole_record_stays(one):
    one = {"references": ["checkout-api is down.", "orders-db is up."], **one}
    assert noised(one) == one


def test_a_value_said_in_other_words_stays():
    one = example("checkout-api in Ireland is slow.", service="checkout-api", region="eu-west-1")
    made = noised(one)
    assert made["slots"]["region"] == "eu-west-1"
    assert made["slots"]["service"] != "checkout-api"
    assert made["references"] == [f"{made['slots']['service']} in Ireland is slow."]


def test_values_that_overlap_stay_said():
    slots = {"cause": "slow disk", "action": "disk repair"}
    text = "A slow disk repair."
    assert replaced(text, slots, {"slow disk": "bad pie"}) is None
    assert replaced(text, slots, {"slow disk": "bad disk"})[1] == "A bad disk repair."
    for seed in range(20):
        made = noised(example(text, **slots), seed=seed)
        assert all(value in made["references"][0] for value in made["slots"].values())


# --- made-up values


def test_an_invented_value_has_the_form_of_the_old_one():
    rng = np.random.default_rng(0)
    for value in ("checkout-api", "Loyalty Console", "p99 latency", "DNS outage", "eu-west-1"):
        made = {invent_value(value, BANK, rng) for _ in range(50)}
        assert shape(value) in {shape(one) for one in made}
        assert {shape(one) for one in made if not CODE.search(one)} == {shape(value)}
        assert len(made) > 20
        assert {one[-1] for one in made if value[-1].isdigit()} in (set(), set("0123456789"))


def test_some_invented_words_are_coined_of_two_halves():
    rng, known = np.random.default_rng(0), {word.lower() for part in BANK.values() for word in part}
    made = [invent_value("gateway", BANK, rng) for _ in range(500)]
    coined = [word for word in made if word not in known and not CODE.fullmatch(word)]
    assert len(coined) / 500 == pytest.approx(COINED, abs=0.05)
    starts, ends = {w[: len(w) // 2] for w in known}, {w[len(w) // 2 :] for w in known}
    for word in coined:
        assert any(word[:n] in starts and word[n:] in ends for n in range(1, len(word)))


@pytest.mark.parametrize(
    ("word", "form"), [("gateway", r"[0-79]([a-z])\1+"), ("api", r"([AEIO])\1+\d")]
)
def test_some_are_codes_that_repeat_a_letter_and_keep_the_article(word, form):
    rng = np.random.default_rng(0)
    codes = [w for w in (invent_value(word, BANK, rng) for _ in range(500)) if CODE.fullmatch(w)]
    assert len(codes) / 500 == pytest.approx(CODED, abs=0.03)
    assert all(re.fullmatch(form, code) for code in codes)


def test_words_come_from_values_that_may_be_replaced_alone():
    words = {word for part in BANK.values() for word in part}
    assert {"gateway", "latency", "cache"} <= words
    assert not words & {"no", "yes", "resolved", "critical", "min", "UTC", "users", "customers"}
    records = [{"slots": {"a": "lost users in pies"}}, {"slots": {"a": "5 users", "b": "lost"}}]
    assert word_bank(records, frozenset("a")) == {True: [], False: ["pies"]}
    assert all(word[0].lower() in "aeiou" for word in BANK[True])
    assert not any(word[0].lower() in "aeiou" for word in BANK[False])
    assert invent_value("outage", {True: [], False: ["pie"]}, np.random.default_rng(0)) == "outage"
