"""models/route.json: what is read, and what is refused in one line."""

import json

import pytest

from serving._cascade.route import Price, Route, Rung, check_route, read_route, route_content
from serving.errors import StillhouseError

ROUTE = Route(
    rungs=(
        Rung("baseline", "local", 0.9, "confidence", "a" * 64),
        Rung("student", "local", -0.25, "min_logprob", "b" * 64),
        Rung("teacher", "remote", None, "mean_logprob", "c" * 64),
    ),
    otherwise="answer",
    alpha=0.04,
    delta=0.05,
    error="slots",
    prices={"teacher": Price(usd_per_million_completion_tokens=0.6)},
    sha256="",
    unmet={},
)


def write(folder, **changes):
    path = folder / "route.json"
    path.write_text(json.dumps(route_content(ROUTE) | changes), encoding="utf-8")
    return path


def refusal(path):
    with pytest.raises(StillhouseError) as error:
        read_route(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def rung(number=0, **changes):
    rungs = route_content(ROUTE)["rungs"]
    rungs[number] |= changes
    return rungs


def test_what_was_written_is_read(tmp_path):
    found = read_route(write(tmp_path))
    assert (found.rungs, found.prices) == (ROUTE.rungs, ROUTE.prices)
    assert len(found.sha256) == 64
    assert found.sha256 != read_route(write(tmp_path, alpha=0.05)).sha256


def test_a_missing_or_broken_file_names_the_stage(tmp_path):
    assert 'missing. Run "dvc repro route"' in refusal(tmp_path / "route.json")
    (tmp_path / "route.json").write_bytes(b"\xff{")
    assert "is not JSON" in refusal(tmp_path / "route.json")
    (tmp_path / "route.json").write_text("[]", encoding="utf-8")
    assert "no schema_version" in refusal(tmp_path / "route.json")


def test_a_newer_file_asks_for_a_newer_program(tmp_path):
    assert "version 2, this program reads up to 1" in refusal(write(tmp_path, schema_version=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 1}, "beta is unknown"),
        ({"otherwise": "guess"}, "otherwise must be one of abstain, answer"),
        ({"error": "bleu"}, "error must be one of slots, similarity"),
        ({"alpha": "low", "delta": 2}, "alpha must be a number from 0 to 1; delta must be"),
        ({"alpha": float("nan")}, "alpha must be a number"),
        ({"alpha": True}, "alpha must be a number"),
        ({"rungs": []}, "at least one rung"),
        ({"rungs": rung(score="luck")}, "rungs[0].score must be one of confidence"),
        ({"rungs": rung(place=["local"])}, "rungs[0].place must be one of"),
        ({"rungs": rung(threshold=None)}, "rungs[0].threshold may be null in the last rung only"),
        ({"rungs": rung(threshold=float("inf"))}, "threshold must be a finite number"),
        ({"rungs": rung(model_sha256="a")}, "rungs[0].model_sha256 must be a SHA-256"),
        ({"rungs": rung(limit=1)}, "rungs[0].limit is unknown"),
        ({"rungs": rung()[::-1][1:]}, "rungs must stand in the order"),
        ({"prices": {"teacher": {"usd_per_hour": 1}}}, "prices.teacher.usd_per_request is missing"),
        ({"prices": {"judge": {}}}, "prices.judge is no rung"),
        ({"unmet": ["baseline"]}, "unmet must give"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, changes, message):
    assert message in refusal(write(tmp_path, **changes))


def test_a_negative_price_is_refused(tmp_path):
    prices = route_content(ROUTE)["prices"]
    prices["teacher"]["usd_per_hour"] = -1.0
    assert "usd_per_hour must be a number of at least 0" in refusal(write(tmp_path, prices=prices))


def test_models_are_those_of_the_route_or_every_other_one_is_named(tmp_path):
    found = read_route(write(tmp_path))
    check_route(found, {"baseline": "a" * 64, "student": "b" * 64, "teacher": "c" * 64})
    with pytest.raises(StillhouseError) as error:
        check_route(found, {"baseline": "d" * 64, "student": "b" * 64})
    assert "baseline was calibrated as aaaaaaaaaaaa, here is dddddddddddd" in str(error.value)
    assert "teacher was calibrated as cccccccccccc, here is no such model" in str(error.value)
    assert "student" not in str(error.value)


def test_a_price_is_the_sum_of_its_parts():
    price = Price(0.36, 0.5, 1.0, 10.0)
    assert price.cost(10.0, 1000, 100) == pytest.approx(0.001 + 0.5 + 0.001 + 0.001)
