"""The baseline's service alone is a real process: it answers, refuses bad input, and stops."""

from pathlib import Path

import pytest
from service_process import served
from toy import example, write_prepared

from stages._params import check_params
from stages.baseline import baseline

PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("service")
    write_prepared(root)
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": root / "model", "reports": root / "reports"})
    environment = {"STILLHOUSE_BASELINE": str(root / "model")}
    with served("serving.service:Baseline", root / "service", environment) as running:
        yield running


@pytest.mark.slow
def test_it_answers_with_a_confidence(service):
    pub = example("Zizzi", "pies", "no")
    status, body = service.post("/baseline", {"prompt": pub["prompt"]})
    assert status == 200
    assert body["text"] in pub["references"]
    assert 0 <= body["confidence"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": 5},
        {"prompt": "no record"},
        {"prompt": "x" * 20_001},
        {"prompt": "colour[red]"},
    ],
    ids=["absent", "empty", "number", "no record", "too long", "unknown slot"],
)
def test_bad_input_is_a_4xx(service, body):
    status, answer = service.post("/baseline", body)
    assert 400 <= status < 500, answer
