"""A release wants a canary's verdict on just these models in just these images, begun in time."""

import shutil
from datetime import UTC, datetime, timedelta

import pytest
from canary_cases import QUICK, Traffic, clock, telling
from release_cases import (
    COMMAND,
    PARAMS,
    aliases,
    bring_into_force,
    copy_store,
    image,
    make_model,
    make_project,
    pack,
    win,
)
from tracking_cases import VARIABLES, open_client

from serving.contract import digest
from serving.errors import StillhouseError
from stages import _io
from stages._canary.arms import Arm
from stages._canary.expected import expected_challenger, expected_champion
from stages._canary_verdict import judge
from stages._challenges import next_challenge
from stages._proposing import Asked
from stages._releases import read_chain
from stages.canary import canary
from stages.challenge import challenge
from stages.release import release
from stages.rollback import rollback

REPORT = "reports/canary/canary.json"


@pytest.fixture(scope="module")
def challenged(tmp_path_factory):
    """int8 is in force in image 1, nf4 challenges in image 2, and a canary says promote."""
    root = tmp_path_factory.mktemp("challenged")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        copy_store(root)
        make_project(root)
        pack(root, "int8")
        bring_into_force(root, images={"cpu": image("1")})
        win(root, "nf4")
        pack(root, "nf4", "stillhouse:def")
        challenge(PARAMS, root, Asked(COMMAND, images={"cpu": image("2")}))
    write_report(root)
    return root


@pytest.fixture
def project(challenged, tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return shutil.copytree(challenged, tmp_path / "project")


def write_report(root, **changes):
    """A canary that promotes nf4 in image 2 over int8 in image 1."""

    def side(name, letter):
        return {"model_sha256": digest(root / "models/variants" / name), "image": image(letter)}

    now = datetime.now(UTC)
    report = {
        "schema_version": 1,
        "verdict": "promote",
        "champion": side("int8", "1"),
        "challenger": side("nf4", "2"),
        "reason": "no metric is worse",
        "tests": [{"name": "latency", "p_value": 0.4}],
        "started": now.isoformat(),
        "ended": (now + timedelta(minutes=5)).isoformat(),
    }
    _io.write_json(root / REPORT, report | changes)
    return report


def bring(project, **asked):
    """Release as a person does who gives no reason."""
    return release(PARAMS, project, Asked(COMMAND, **asked))


def refused(project, said, **asked):
    with pytest.raises(StillhouseError, match=said) as caught:
        bring(project, **asked)
    assert "\n" not in str(caught.value)
    assert "make challenge, make canary" in str(caught.value)
    assert len(read_chain(project / "releases")) == 1
    assert aliases(project) == {"challenger": "nf4", "champion": "int8"}


def test_a_promoted_challenger_comes_into_force_with_verdict_and_image(project, capsys):
    record = bring(project)
    assert record["canary"] == {
        "device": "cpu",
        **{k: v for k, v in _io.read_json(project / REPORT).items() if k != "schema_version"},
        "sha256": _io.sha256_file(project / REPORT),
    }
    assert record["images"] == {
        "cpu": {"image": image("2"), "bento_tag": "stillhouse:def", "bento_sha256": "b" * 64}
    }
    assert _io.read_json(project / "releases/current.json") == record
    assert aliases(project) == {"challenger": "nf4", "champion": "nf4", "previous": "int8"}
    assert "canary: promote, no metric is worse" in capsys.readouterr().out
    assert bring(project) == record, "and once"


def test_the_report_that_a_canary_writes_brings_its_challenger_into_force(project):
    (project / REPORT).unlink()
    with (
        telling(Traffic(1600), expected_champion(project, "cpu", None, None).model_sha256) as one,
        telling(Traffic(400), expected_challenger(project, "cpu", None, None).model_sha256) as two,
    ):
        champion = Arm("champion", [one.url], expected_champion(project, "cpu", None, None))
        challenger = Arm("challenger", [two.url], expected_challenger(project, "cpu", None, None))
        canary(champion, challenger, QUICK, project / REPORT, clock=clock())
    kept = bring(project)["canary"]
    assert kept["verdict"] == "promote"
    assert kept["challenger"]["image"] == image("2")
    assert {test["verdict"] for test in kept["tests"]} == {"within"}


def test_the_registry_names_the_image_of_each_role(project):
    bring(project)
    client = open_client(project)
    shown = {
        alias: client.get_model_version_by_alias("stillhouse", alias).tags["image.cpu"]
        for alias in ("champion", "previous")
    }
    assert shown == {"champion": image("2"), "previous": image("1")}


def test_the_first_release_asks_no_canary_and_says_so(challenged):
    first = read_chain(challenged / "releases")[0]
    assert first["canary"]["verdict"] == "not_asked"
    assert first["images"]["cpu"]["image"] == image("1")


@pytest.mark.parametrize("verdict", ["hold", "roll_back", "anything"])
def test_another_verdict_promotes_nobody(project, verdict):
    write_report(project, verdict=verdict, reason="too few requests")
    refused(project, f"verdict is {verdict}: too few requests")


def test_without_a_report_nothing_is_promoted(project):
    (project / REPORT).unlink()
    refused(project, r"canary\.json is missing: no canary has judged")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 2},
        {"champion": None},
        {"challenger": {"model_sha256": "e" * 64}},
        {"started": "yesterday"},
        {"started": "2030-01-01T00:00:00"},
        {"ended": "2001-01-01T00:00:00+00:00"},
        {"ended": 5},
    ],
)
def test_what_is_no_report_promotes_nobody(project, changes):
    write_report(project, **changes)
    refused(project, "no canary report of schema version 1")


def test_a_torn_report_promotes_nobody(project):
    (project / REPORT).write_text('{"verdict": "promote"')
    refused(project, "no canary report")


@pytest.mark.parametrize("side", ["champion", "challenger"])
def test_a_verdict_on_other_models_or_images_promotes_nobody(project, side):
    right = write_report(project)[side]
    write_report(project, **{side: right | {"model_sha256": "e" * 64}})
    refused(project, f"the canary's {side} was eeeeeeeeeeee, expected {right['model_sha256'][:12]}")
    write_report(project, **{side: right | {"image": image("9")}})
    refused(project, f"the canary's {side} ran in .*9, expected {right['image']}")
    write_report(project, **{side: right | {"image": None}})
    refused(project, f"the canary's {side} ran in no image")


def test_a_canary_that_began_before_the_challenge_promotes_nobody(project):
    then = datetime.now(UTC) - timedelta(days=1)
    write_report(project, started=then.isoformat())
    refused(project, "the canary began at .*, before the challenge of")


def test_a_verdict_does_not_count_for_a_model_that_won_since(project):
    make_model(project, "student", "trained again")
    win(project, "student")
    refused(project, r"challenger\.json proposes \w{12} \(cpu\), models/winner\.json names \w{12}")


def test_another_image_than_the_one_judged_is_refused(project):
    refused(project, "images are others than those of", images={"cpu": image("3")})


def test_without_a_challenge_a_verdict_counts_for_nothing(project):
    (project / "releases/challenger.json").unlink()
    refused(project, "no challenge stands")


def test_a_verdict_counts_once(project):
    bring(project)
    rollback(project, COMMAND)
    win(project, "nf4")
    with pytest.raises(StillhouseError, match="no challenge stands"):
        bring(project, despite="mended")


def test_a_reason_takes_the_canarys_place_and_is_kept(project):
    (project / REPORT).unlink()
    record = bring(project, without_canary="a leak has to be closed today")
    assert record["canary"] == {"verdict": "waived", "reason": "a leak has to be closed today"}
    assert record["images"]["cpu"]["image"] == image("2"), "of the challenge"


def test_a_crash_before_the_record_moves_no_alias_and_the_verdict_still_counts(project):
    path = project / "reports/benchmark/nf4.json"
    good = path.read_text()
    path.write_text(good.replace("11.0", "NaN"))  # which no record can hold
    with pytest.raises(ValueError, match="not JSON compliant"):
        bring(project)
    assert aliases(project) == {"challenger": "nf4", "champion": "int8"}
    path.write_text(good)
    assert bring(project)["canary"]["verdict"] == "promote"


def test_a_rollback_names_and_records_the_image(project, capsys):
    bring(project)
    record = rollback(project, COMMAND)
    assert record["images"]["cpu"]["image"] == image("1")
    assert record["canary"] == {"verdict": "not_asked", "reason": "a rollback"}
    assert _io.read_json(project / "releases/current.json")["images"] == record["images"]
    assert f"Redeploy: image {image('1')} (cpu)" in capsys.readouterr().out


def test_a_device_that_no_canary_compared_is_not_promoted(project):
    chain = read_chain(project / "releases")
    proposal = _io.read_json(project / "releases/challenger.json")
    gpu = {"candidate": "int8", "folder": "models/variants/int8", "model_sha256": "c" * 64}
    winners = proposal["winners"] | {"cuda": gpu}
    pending = next_challenge(chain, proposal | {"winners": winners})
    images = {"cpu": image("2")}
    with pytest.raises(StillhouseError, match="judged cpu, but the model for cuda changes too"):
        judge(project, chain, pending, winners, images)
    assert judge(project, chain, pending, winners, images, "no GPU")["verdict"] == "waived"
