"""train, executed. Real: the run blocks, `make profile`, .ci/challenge and .ci/propose with Git and
a repository to push to. Stand-ins: `gh`, and the programs that train, retrain, challenge, back up.
"""

import shutil

import pytest
from deploy_cases import contexts, make_released, places, pushed
from deploy_cases import machine_for as checkout
from release_cases import git
from structure import ROOT

from stages import _io

pytestmark = pytest.mark.slow
PROGRAMS = [f"stages.{name}" for name in ("_pipeline", "retrain", "challenge", "backup")]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    root = make_released(tmp_path_factory.mktemp("released"), releases=1)
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "configs", root / "configs")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "params")
    return root


@pytest.fixture
def machine(released, tmp_path):
    return checkout(released, tmp_path, PROGRAMS)


def train(machine, verdict="replace", job="train", code=0, **inputs):
    """The job, with stand-ins that leave what training would leave."""
    decision, lock, challenge = (machine.place / name for name in ("decision", "lock", "challenge"))
    _io.write_json(decision, {"incumbent": {"release": 1, "cpu": {"verdict": verdict}}})
    lock.write_text("# as it is trained now\n")
    challenge.write_text("{}")
    left = {str(decision): "reports/select/decision.json", str(lock): "dvc.lock"}
    report = {str(challenge): "reports/retrain/w-1/retrain.json"}
    machine.reply(
        {"match": "stages._pipeline", "files": left, "code": code},
        {"match": "stages.retrain", "files": left | report, "code": code},
        {"match": "stages.challenge", "files": {str(challenge): "releases/challenger.json"}},
    )
    told = contexts(inputs={"profile": "default", "window": ""} | inputs)
    told["vars"]["DRIFT_PROJECT"] = str(machine.project)
    return machine.run_job("train", job, **told)


def propose(machine):
    shutil.copytree(machine.project / "scratch/proposal", machine.place / "temp/proposal")
    ended = machine.run_job("train", "propose", **contexts())
    assert not ended.failed, ended.log
    return ended


def test_a_better_model_is_kept_challenges_and_is_proposed(machine):
    ended = train(machine, profile="tiny")
    assert not ended.failed, ended.log
    assert machine.calls == ["stages._pipeline", "stages.challenge", "stages.backup /backup"]
    assert "# profile: tiny" in (machine.project / "params.yaml").read_text()
    propose(machine)
    assert "releases/challenger.json" in pushed(machine.place.parent, "train/7-1")
    assert "dvc.lock" in pushed(machine.place.parent, "train/7-1~1")


def test_a_model_that_select_would_not_put_in_force_is_no_failure(machine):
    ended = train(machine, verdict="keep")
    assert not ended.failed, ended.log
    assert places(machine, "stages.challenge") == []
    assert "select says keep" in ended.log


def test_a_pipeline_that_fails_proposes_nothing_and_shows_its_reports(machine):
    ended = train(machine, code=1)
    assert ended.failed
    assert [inputs["name"] for name, inputs in ended.uses if "upload" in name] == ["reports"]
    assert not (machine.project / "scratch/proposal").exists()


def test_a_profile_is_a_name(machine):
    ended = train(machine, profile="../x $(touch pwned)")
    assert ended.failed
    assert machine.calls == []
    assert list(machine.place.parent.rglob("pwned")) == []


def test_a_window_is_retrained_on_where_the_records_are(machine):
    ended = train(machine, job="retrain", window="w-1")
    assert not ended.failed, ended.log
    assert machine.calls[0] == "stages.retrain --window w-1"
    assert (machine.place / "temp/proposal/commits.bundle").is_file()
    assert (machine.place / "temp/reports/retrain/w-1/retrain.json").is_file()


def test_a_refused_model_fails_the_job_to_be_seen(machine):
    assert train(machine, job="retrain", window="w-1", code=4).failed
    assert machine.calls == ["stages.retrain --window w-1"]
