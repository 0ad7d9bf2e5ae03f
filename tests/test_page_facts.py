"""What the page is told: examples that the schema reads, models, what is switched on."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structure import read_yaml
from toy import SCHEMA

from serving._cascade.route import Route, Rung
from serving._page.facts import EXAMPLES, examples_of, facts_of
from serving.contract import Contract, digest, write_contract
from serving.slots import SlotSchema, check_answer, parse_record

SCHEMAS = sorted((Path(__file__).parent.parent / "configs" / "schemas").glob("*.yaml"))
CONTRACT = Contract("ctranslate2", "{prompt}", SCHEMA, {}, {}, "p", "d")


def test_there_are_schemas():
    assert SCHEMAS


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.stem)
def test_examples_are_records_that_the_schema_reads_without_findings(file):
    content = read_yaml(file)
    schema = SlotSchema.from_dict(content)
    examples = examples_of(replace(CONTRACT, slot_schema=content))
    assert 1 <= len(examples) <= EXAMPLES
    for example in examples:
        record = parse_record(example)
        assert not check_answer("", record, schema).unknown
        for slot, value in record.items():
            assert value in content["slots"][slot]["values"]


def test_examples_differ_and_name_only_values_of_the_schema():
    assert examples_of(CONTRACT) == ["food[fish]", "food[pasta]", "food[curry]", "food[pies]"]


@pytest.mark.parametrize("schema", [None, {"slots": {"name": {"kind": "name"}}}])
def test_without_known_values_there_are_no_examples(schema):
    assert examples_of(replace(CONTRACT, slot_schema=schema)) == []


def entry(root, cascade=None):
    for name in ("student", "baseline"):
        (root / name).mkdir()
        write_contract(root / name, replace(CONTRACT, params_hash=name))
    settings = SimpleNamespace(student_folder=lambda: root / "student", baseline=root / "baseline")
    return SimpleNamespace(settings=settings, cascade=cascade, keyed=True)


def test_without_a_cascade_there_are_two_models_and_no_thresholds(tmp_path):
    facts = json.loads(json.dumps(facts_of(entry(tmp_path))))
    assert (facts["cascade"], facts["keys"]) == (False, True)
    assert [(one["rung"], one["threshold"]) for one in facts["models"]] == [
        ("baseline", None),
        ("student", None),
    ]
    assert facts["models"][1]["digest"] == digest(tmp_path / "student")[:12]


def test_a_routes_thresholds_and_its_teacher_are_told(tmp_path):
    rungs = (
        Rung("student", "local", -0.5, "min_logprob", "1" * 64),
        Rung("teacher", "remote", None, "mean_logprob", "2" * 64),
    )
    route = Route(rungs, "abstain", 0.1, 0.05, "slots", {}, "f" * 64)
    opened = SimpleNamespace(route=route, teacher=None)
    models = facts_of(entry(tmp_path, SimpleNamespace(opened=opened)))["models"]
    assert [one["threshold"] for one in models] == [None, -0.5, None]
    assert models[2] == {
        "rung": "teacher",
        "engine": "not here",
        "digest": "2" * 12,
        "threshold": None,
    }
