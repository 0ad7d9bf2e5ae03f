"""Prompts without references, through the label stage: where they come from, how they are named."""

import shutil

import pytest
from tiny_pipeline import label_inputs, run_label, taught, tiny_params
from toy import FOODS, example

from serving.errors import StillhouseError
from stages import _io
from stages._label_plan import plan_labels
from stages._labels import iterate_labels, read_labels

FIRST = ["Golden", "Silent", "Crooked", "Merry", "Northern", "Hidden", "Velvet", "Amber"]
SECOND = ["Anchor", "Badger", "Cricket", "Falcon", "Harbour", "Juniper", "Lantern", "Otter"]
SECOND += ["Pheasant", "Rooster", "Sparrow", "Thistle", "Walnut", "Willow"]
NAMES = [f"{FIRST[place % 8]} {word}" for place, word in enumerate(SECOND)]
# Combinations are missing, so that there is something to recombine.
TRAIN = [
    example(name, food, dogs)
    for place, name in enumerate(NAMES)
    for food, dogs in [(FOODS[place % 4], "yes"), (FOODS[(place + 1) % 4], "no")]
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copytree(taught(), tmp_path / "work", ignore=shutil.ignore_patterns("scratch", "labels"))
    monkeypatch.chdir(tmp_path / "work")
    _io.write_jsonl(tmp_path / "work/prepared/train.jsonl", TRAIN)
    return tmp_path / "work"


def with_pool(**changes):
    settings = tiny_params().label.model_dump(mode="json")
    return tiny_params(label=settings | {"pool_prompts": 40, "gold": False} | changes)


def pool_of(root):
    return _io.read_jsonl(root / "labels/pool.jsonl")


def test_recombined_records_are_answered_and_counted(root):
    params = with_pool()
    report = run_label(params, root)
    pool = pool_of(root)
    plan = plan_labels(params, label_inputs(root))
    assert len(pool) == report["pool"]["made"] == 40
    assert plan.examples == TRAIN + pool
    labels = list(iterate_labels(read_labels(root / "labels", plan.manifest)))
    answered = {n.example_id for n in labels if n.source == "pool"}
    turned_away = _io.read_jsonl(root / "labels/rejected.jsonl")
    assert answered | {r["example_id"] for r in turned_away if r["source"] == "pool"} == {
        e["id"] for e in pool
    }
    assert report["answers"] == len(TRAIN) + 40


def test_the_same_params_give_the_same_pool_and_another_seed_gives_another(root):
    first, again = (plan_labels(with_pool(), label_inputs(root)) for _ in range(2))
    other = plan_labels(with_pool().model_copy(update={"seed": 7}), label_inputs(root))
    assert first.examples == again.examples and first.manifest == again.manifest
    assert other.manifest.example_ids_sha256 != first.manifest.example_ids_sha256


def test_ids_follow_the_prompt_with_the_values_that_were_made_up(root):
    plain, noisy = (
        plan_labels(with_pool(pool_value_noise=noise), label_inputs(root)) for noise in (0.0, 1.0)
    )
    pools = [plan.examples[plan.train_count :] for plan in (plain, noisy)]
    known = {name for example in TRAIN for name in example["slots"].values()}
    invented = {v for e in pools[1] for v in e["slots"].values()} - known
    assert invented, "values were made up"
    assert all(e["slots"]["name"] in e["prompt"] for e in pools[1])
    by_id = {e["id"]: e["prompt"] for pool in pools for e in pool}
    by_prompt = {e["prompt"]: e["id"] for pool in pools for e in pool}
    assert {v: k for k, v in by_id.items()} == by_prompt
    assert plain.manifest.example_ids_sha256 != noisy.manifest.example_ids_sha256
    assert noisy.pool["value_noise"] == 1.0


def test_labels_of_a_pool_are_refused_where_the_pool_is_another(root):
    run_label(with_pool(), root)
    other = plan_labels(with_pool(pool_value_noise=1.0), label_inputs(root))
    with pytest.raises(StillhouseError, match=r"example_ids_sha256"):
        read_labels(root / "labels", other.manifest)


def test_slot_errors_of_the_pool_are_found_by_its_own_record(root):
    report = run_label(with_pool(max_slot_errors=0), root)
    rows = [r for r in _io.read_jsonl(root / "labels/rejected.jsonl") if r["source"] == "pool"]
    assert report["rejected_by_reason"]["slot_errors"] >= 1
    names = {e["id"]: e["slots"]["name"] for e in pool_of(root)}
    details = {r["example_id"]: r["detail"] for r in rows if "missing name" in r["detail"]}
    assert details
    assert all(f"missing name[{names[name]}]" in detail for name, detail in details.items())


def write_pool(root, *rows):
    _io.write_jsonl(root / "pool.jsonl", rows)
    return with_pool(pool_file=str(root / "pool.jsonl"))


def test_a_pool_file_gives_prompts_that_nothing_else_has(root):
    train = TRAIN[0]["prompt"]
    test = _io.read_jsonl(root / "prepared/test.jsonl")[0]["prompt"]
    nearly = test.replace("food[", "food[ ").upper()
    prompts = [train, train.upper(), test, nearly, "food[soup]", "food[ soup ]", "name[The Hut]"]
    params = write_pool(root, *[{"prompt": prompt} for prompt in prompts])
    report = run_label(params, root)
    pool = pool_of(root)
    assert [e["prompt"] for e in pool] == ["food[soup]", "name[The Hut]"]
    assert all(e["references"] == [] for e in pool)
    copies = report["pool"]["copies_of_training_or_held_out"]
    assert copies + report["pool"]["near_copies_of_held_out"] == 5
    assert report["pool"]["made"] == 2
    assert report["answers"] == len(TRAIN) + 2


def test_a_files_prompts_keep_context_and_record_and_both_count(root):
    rows = [
        {"prompt": "name[The Hut]"},
        {"prompt": "name[The Hut]", "context": "Menu", "other": 1},
        {"prompt": "any question", "slots": {"name": "The Hut"}},
    ]
    params = write_pool(root, *rows)
    plan = plan_labels(params, label_inputs(root))
    pool = plan.examples[plan.train_count :]
    assert [e.get("context") for e in pool] == [None, "Menu", None]
    assert [e.get("slots") for e in pool] == [{"name": "The Hut"}] * 3
    assert len({e["id"] for e in pool}) == 3
    assert all(e.keys() <= {"id", "prompt", "references", "context", "slots"} for e in pool)


def test_no_more_prompts_are_taken_than_asked_for(root):
    params = write_pool(root, *[{"prompt": f"name[The Hut {n}]"} for n in range(60)])
    plan = plan_labels(params, label_inputs(root))
    assert [e["prompt"] for e in plan.examples[plan.train_count :]] == [
        f"name[The Hut {n}]" for n in range(40)
    ]


@pytest.mark.parametrize("row", [{"text": "x"}, {"prompt": ""}, {"prompt": 3}, ["x"], None])
def test_a_line_without_a_prompt_is_named(root, row):
    params = write_pool(root, {"prompt": "food[soup]"}, row)
    with pytest.raises(StillhouseError, match=r"pool\.jsonl, line 2: expected \{\"prompt\""):
        plan_labels(params, label_inputs(root))


def test_a_missing_pool_file_is_told_with_its_param(root):
    params = with_pool(pool_file=str(root / "none.jsonl"))
    with pytest.raises(StillhouseError, match=r"label\.pool_file: there is no .*none\.jsonl"):
        plan_labels(params, label_inputs(root))


def asked(name, food="fish", **fields):
    """A prompt of a frozen window, as prepare writes it into windows.jsonl."""
    made = example(name, food, "yes")
    return made | {"id": f"w-{name}-{food}", "references": [], "window": "w"} | fields


def windows_plan(root, rows, **changes):
    _io.write_jsonl(root / "prepared/windows.jsonl", rows)
    inputs = label_inputs(root) | {"windows.jsonl": root / "prepared/windows.jsonl"}
    return plan_labels(with_pool(**changes), inputs)


def test_without_windows_the_plan_is_as_if_there_were_no_such_file(root):
    plain = plan_labels(with_pool(), label_inputs(root))
    assert windows_plan(root, []) == plain


def test_prompts_of_windows_join_the_pool_and_so_do_records_made_of_them(root):
    plain = plan_labels(with_pool(), label_inputs(root))
    rows = [asked(f"New {n}", FOODS[n % 4]) for n in range(12)]
    plan = windows_plan(root, rows, window_prompts=8, pool_value_noise=0.0)
    assert plan.examples[: len(plain.examples)] == plain.examples
    more = plan.examples[len(plain.examples) :]
    assert more[:12] == rows
    assert len(more) == 20
    assert all(e["slots"]["name"].startswith("New ") for e in more)
    assert len({e["prompt"] for e in plan.examples}) == len(plan.examples)
    assert plan.pool["windows"]["used"] == 12
    assert plan.pool["windows"]["recombined"]["made"] == 8
    assert plan.manifest.example_ids_sha256 != plain.manifest.example_ids_sha256
    assert windows_plan(root, rows, window_prompts=0).examples[-12:] == rows


def test_what_train_or_a_held_out_split_asks_is_not_taken_from_a_window(root):
    test = _io.read_jsonl(root / "prepared/test.jsonl")[0]
    turned = dict(reversed(test["slots"].items()))
    copies = [TRAIN[0] | {"id": "a"}, test | {"id": "b", "slots": turned, "prompt": "other words"}]
    texts = ["where is my order number seven", "a question that nobody has asked before"]
    held = example("Zizzi", "fish", "yes") | {"prompt": texts[0] + " today please", "slots": None}
    _io.write_jsonl(root / "prepared/test.jsonl", [test, held])
    rows = [row | {"window": "w", "references": []} for row in copies]
    rows += [{"id": text, "prompt": text, "references": [], "window": "w"} for text in texts]
    plan = windows_plan(root, rows, window_prompts=5)
    assert [e["id"] for e in plan.examples if e.get("window")] == [texts[1]]
    assert plan.pool["windows"] == {"prompts": 4, "used": 1}


def test_gold_of_windows_is_labelled_however_few_training_prompts_are(root):
    gold = example("Late Window", "fish", "yes") | {"window": "w"}
    _io.write_jsonl(root / "prepared/train.jsonl", [*TRAIN, gold])
    plan = plan_labels(with_pool(train_prompts=5), label_inputs(root))
    assert plan.examples[: plan.train_count] == [*TRAIN[:5], gold]
