"""Recombined prompts: new, like training, never held out, the same for the same seed."""

import pytest
from toy import example

from serving.errors import StillhouseError
from serving.slots import SlotSchema, parse_record
from stages._duplicates import exact_key
from stages._labels import recombine

# 60 pubs, each seen with one of four combinations of food and dogs
FREE = [example(f"Bar {i}", ("fish", "pies")[i % 2], "yn"[i // 2 % 2]) for i in range(60)]


def keys(examples):
    return {exact_key("", one["slots"]) for one in examples}


@pytest.mark.parametrize("seed", range(4))
def test_recombined_records_are_new_and_never_held_out(seed):
    every = [example(f"Bar {i}", f, d) for i in range(60) for f in ("fish", "pies") for d in "yn"]
    shouted = [e | {"slots": {k: v.upper() for k, v in e["slots"].items()}} for e in every[::3]]
    pool = recombine(FREE, shouted, None, 100, seed)
    made = keys(pool.examples)
    assert len(made) == len(pool.examples) == 100
    assert not made & keys(shouted)
    assert not made & keys(FREE)
    assert pool.description["equal_to_training"] > 0
    assert pool.description["equal_to_held_out"] > 0


def test_the_same_seed_gives_the_same_pool_and_another_one_another():
    first = recombine(FREE, [], None, 40, 7)
    assert recombine(FREE, [], None, 40, 7) == first
    assert recombine(FREE, [], None, 40, 8).examples != first.examples


def test_a_pool_example_is_a_prepared_example_without_references():
    for one in recombine(FREE, [], None, 10, 1).examples:
        assert one.keys() == {"id", "prompt", "references", "slots"}
        assert parse_record(one["prompt"]) == one["slots"]
        assert list(one["slots"]) == ["name", "food", "dogs"]
        assert one["references"] == []
        assert len(one["id"]) == 16


def record(**slots):
    return {"prompt": ", ".join(f"{k}[{v}]" for k, v in slots.items()), "slots": slots}


def test_slot_sets_and_values_are_those_of_training():
    train = [record(name=f"N{i}", food=f"F{i % 3}") for i in range(20)]
    train += [record(name=f"N{i}", area=f"A{i % 4}") for i in range(20)]
    pool = recombine(train, [], None, 40, 3)
    assert {tuple(e["slots"]) for e in pool.examples} == {("name", "food"), ("name", "area")}
    values = {pair for e in train for pair in e["slots"].items()}
    assert {pair for e in pool.examples for pair in e["slots"].items()} <= values


def test_values_that_depend_on_each_other_stay_together():
    units = {"latency": "ms", "memory": "GB", "errors": "%"}
    train = [
        record(service=f"s{i % 50}", metric=metric, value=f"{i} {unit}", region=f"r{i % 7}")
        for i in range(200)
        for metric, unit in [list(units.items())[i % 3]]
    ]
    pool = recombine(train, [], None, 100, 5)
    assert len(pool.examples) == 100
    for one in pool.examples:
        assert one["slots"]["value"].split()[1] == units[one["slots"]["metric"]]
    assert pool.description["parents"]["value"]["slot"] == "metric"
    assert pool.description["parents"]["region"] is None


def test_quantities_under_one_slot_come_from_one_record():
    unit = {"say": ["ms"], "dimension": "time", "factor": 1}
    quantity = {"kind": "quantity", "units": {"ms": unit, "GB": unit | {"say": ["gb"]}}}
    schema = SlotSchema.from_dict(
        {"name": "x", "slots": {"metric": {"kind": "name"}, "value": quantity, "limit": quantity}}
    )
    train = [
        record(
            service=f"s{i}", metric=f"m{i % 2}", value=f"{10 * i + 9} {u}", limit=f"{10 * i} {u}"
        )
        for i in range(60)
        for u in [("ms", "GB")[i % 2]]
    ]
    asked = {(e["slots"]["value"], e["slots"]["limit"]) for e in train}
    made = [e["slots"] for e in recombine(train, [], schema, 80, 2).examples]
    assert len(made) == 80
    assert {(slots["value"], slots["limit"]) for slots in made} <= asked
    loose = [e["slots"] for e in recombine(train, [], None, 80, 2).examples]
    assert not {(slots["value"], slots["limit"]) for slots in loose} <= asked


def test_slots_that_say_nothing_or_are_hardly_ever_there_hang_on_none():
    train = [record(name=f"N{i}", kind="pub", food=f"F{i % 3}") for i in range(20_001)]
    train[1] = record(name="N1", kind="pub", stars="5")  # every second one is measured
    parents = recombine(train, [], None, 1, 0).description["parents"]
    assert parents == {"name": None, "kind": None, "food": None, "stars": None}


def test_fewer_come_out_where_the_values_do_not_combine_into_more():
    pool = recombine([record(name="A", food="B"), record(name="C", food="D")], [], None, 10, 0)
    assert len(pool.examples) <= 2
    met = pool.description
    drawn = met["equal_to_training"] + met["equal_to_held_out"] + met["repeated"]
    assert drawn + met["made"] == 200
    assert met["asked"] == 10


@pytest.mark.parametrize(
    "train",
    [[], [{"prompt": "Write a poem."}], [{"prompt": "name[A]", "slots": {"name": "B"}}]],
    ids=["none", "text", "other-record"],
)
def test_prompts_that_are_no_records_cannot_be_recombined(train: list[dict[str, object]]):
    with pytest.raises(StillhouseError, match=r"recombine"):
        recombine(train, [], None, 10, 0)
