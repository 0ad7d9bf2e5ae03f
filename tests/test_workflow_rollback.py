"""rollback, executed. Real: the run blocks, `make rollback` on two releases, .ci/rollout with
kustomize, .ci/verify with jq, .ci/bundle and .ci/propose with Git and a repository to push to.
Stand-ins: `gh` (which would verify and ask for a review), `aws`, and `kubectl` beyond kustomize.
"""

import shutil

import pytest
from deploy_cases import (
    MODELS,
    contexts,
    machine_for,
    make_released,
    places,
    pushed,
    verifying,
)
from release_cases import image
from tracking_cases import VARIABLES

from stages import _io

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return make_released(tmp_path_factory.mktemp("released"), releases=2)


@pytest.fixture
def machine(released, tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return machine_for(released, tmp_path)


def redeploy(machine, *models, reason="wrong prices", to=""):
    machine.reply(*verifying(*models))
    told = contexts(inputs={"reason": reason, "to": to})
    return machine.run_job("rollback", "redeploy", **told)


def test_the_release_before_is_verified_deployed_and_recorded(machine):
    ended = redeploy(machine, "0" * 64, MODELS[1])
    assert not ended.failed, ended.log
    record = _io.read_json(machine.project / "releases/3.json")
    assert (record["kind"], record["serves"], record["reason"]) == ("rollback", 1, "wrong prices")
    verified = places(machine, "attestation verify", f"oci://{image('1')} ", "workflows/cd.yml")
    assert len(verified) == 3
    assert max(verified) < min(places(machine, "aws eks update-kubeconfig --name one"))
    assert max(verified) < min(places(machine, "kubectl apply"))
    assert places(machine, "kubectl", "delete", "track=challenger")


def test_an_image_with_another_model_goes_nowhere(machine):
    ended = redeploy(machine, MODELS[2])
    assert ended.failed
    assert "no attestation says that" in ended.log
    assert not any(line.startswith(("kubectl", "aws")) for line in machine.calls)


def test_an_attestation_that_gh_refuses_stops_it(machine):
    machine.reply({"match": "gh attestation verify", "code": 1})
    told = contexts(inputs={"reason": "wrong prices", "to": ""})
    assert machine.run_job("rollback", "redeploy", **told).failed
    assert [line.split()[0] for line in machine.calls] == ["gh"]


def test_a_release_that_is_not_there_is_told(machine):
    ended = redeploy(machine, MODELS[1], to="9")
    assert ended.failed
    assert "There is no release 9" in ended.log
    assert machine.calls == []


@pytest.mark.parametrize(
    "reason",
    [
        "$(touch pwned) `touch pwned`",
        "'; touch pwned; '\"$(touch pwned)",
        "$(shell touch pwned) # %",
        "a\ntouch pwned",
    ],
)
def test_a_reason_is_written_down_and_never_run(machine, reason):
    ended = redeploy(machine, MODELS[1], reason=reason, to="1")
    assert not ended.failed, ended.log
    assert _io.read_json(machine.project / "releases/3.json")["reason"] == reason
    assert list(machine.place.parent.rglob("pwned")) == []


def test_the_record_is_proposed_on_a_branch_of_its_own(machine, released, tmp_path):
    assert not redeploy(machine, MODELS[1]).failed
    (tmp_path / "other").mkdir()
    proposer = machine_for(released, tmp_path / "other")
    shutil.copytree(machine.project / "scratch/proposal", proposer.place / "temp/proposal")
    ended = proposer.run_job("rollback", "propose", **contexts())
    assert not ended.failed, ended.log
    shown = pushed(tmp_path / "other", "rollback/7-1")
    assert "Back to release 1" in shown
    assert "releases/3.json" in shown
    assert proposer.calls[0] == "gh auth setup-git"
    assert proposer.calls[1].startswith("gh pr create --base main --head rollback/7-1")
