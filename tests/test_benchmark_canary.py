"""The canary's benchmark: its summary, its challengers, and one canary on two real services."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from cascade_service import write_route
from converted_models import write_converted
from service_models import service_environment
from service_process import served
from tiny_models import write_model
from toy import FOODS, NAMES, SCHEMA, example

from benchmarks._canary_runs import Pair, Traffic, run_canary
from benchmarks._canary_simulated import simulate
from benchmarks._canary_summary import summarise, table
from serving.contract import digest, read_contract, write_contract
from stages._params.canary import Canary, Margins

PROMPTS = [example(*words)["prompt"] for words in product(NAMES, FOODS, ("yes", "no"))]


def run(kind, verdict, worse=(), seconds=10.0, requests=(300, 100)):
    return {
        "kind": kind,
        "verdict": verdict,
        "worse": list(worse),
        "seconds": seconds,
        "requests": dict(zip(("champion", "challenger"), requests, strict=True)),
    }


def test_the_summary_counts_verdicts_and_metrics_by_kind():
    runs = [run("unchanged", "promote"), run("unchanged", "hold", seconds=30.0)]
    runs += [
        run("wrong", "roll_back", ["slot_errors", "slow"]),
        run("wrong", "roll_back", ["slow"]),
    ]
    told = summarise(runs)
    assert (told["unchanged"]["promote"], told["unchanged"]["hold"]) == (1, 1)
    assert told["unchanged"]["median_seconds"] == 20.0
    assert told["wrong"]["worse"] == {"slot_errors": 1, "slow": 2}
    lines = table({"summary": told})
    assert lines[2].split()[:5] == ["wrong", "2", "0", "0", "2"]


def test_simulated_canaries_err_as_rarely_as_promised_and_find_what_is_worse():
    rules = Canary(share=0.5, margins=Margins(slow=0.2, slot_errors=0.1))
    told = simulate(rules, 10, seed=1)
    assert told["unchanged"]["promote"] >= 0.9
    assert told["slow twice the margin"]["roll_back"] >= 0.9
    assert told["at the margin of slow"]["promote"] <= 0.3


@pytest.mark.slow
def test_noise_on_the_weights_makes_another_model_of_the_same_contract(tmp_path):
    from benchmarks._canary_models import damage, with_route

    student = write_model(tmp_path / "student")
    write_converted(tmp_path / "champion", student)
    made = damage(student, tmp_path / "champion", 0.5, 1, tmp_path / "made")
    champion, damaged = read_contract(tmp_path / "champion"), read_contract(made)
    assert damaged.prompt_template == champion.prompt_template
    assert damaged.files["model.bin"] != champion.files["model.bin"]
    rungs = [{"name": "baseline", "threshold": 0.1}, {"name": "student", "threshold": 0.2}]
    (tmp_path / "route.json").write_text(json.dumps({"rungs": rungs}))
    served = with_route(made, tmp_path / "route.json", tmp_path / "own.json")
    [rung] = json.loads(served.route.read_text())["rungs"]
    assert rung == {"name": "student", "threshold": None, "model_sha256": digest(made)}


def route_of(rung, environment, file):
    """A route of one rung, which answers everything."""
    content = json.loads(write_route(file, environment).read_text())
    content["rungs"] = [
        one | {"threshold": None} for one in content["rungs"] if one["name"] == rung
    ]
    file.write_text(json.dumps(content))
    return {**environment, "STILLHOUSE_ROUTE": str(file), "STILLHOUSE_CACHE": "off"}


@pytest.mark.slow
def test_wrong_answers_of_a_real_service_behind_the_split_are_caught(tmp_path):
    """The champion answers from the baseline, the challenger by a student that learned nothing."""
    pytest.importorskip("ctranslate2")
    environment = service_environment(tmp_path / "models")
    folder = Path(environment["STILLHOUSE_STUDENT"])
    student = write_contract(folder, replace(read_contract(folder), slot_schema=SCHEMA, files={}))
    rules = {
        "share": 0.3,
        "look_s": 1.0,
        "warm_up_requests": 20,
        "margins": {"slow": None, "slot_errors": 0.1},
    }
    services = {}
    for side, rung in (("champion", "baseline"), ("challenger", "student")):
        services[side] = route_of(rung, environment, tmp_path / f"{side}.json")
    target = "serving.service:Stillhouse"
    with (
        served(target, tmp_path / "one", services["champion"]) as one,
        served(target, tmp_path / "two", services["challenger"]) as two,
    ):
        pair = Pair(one.url, two.url, (student, student))
        row = run_canary(pair, Traffic(PROMPTS, 10.0, rules), tmp_path / "judge", seed=3)
    assert row["verdict"] == "roll_back"
    assert row["worse"] == ["slot_errors"]
    assert row["requests"]["champion"] > row["requests"]["challenger"]
    assert set(row["statuses"]) == {"200"}
