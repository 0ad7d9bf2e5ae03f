"""`make rollback`: an earlier release serves again, on record, with its model at hand or found."""

import json
import shutil

import pytest
from release_cases import aliases, bring_into_force, copy_store, make_model, make_project, win
from tracking_cases import VARIABLES

from serving.errors import StillhouseError
from stages import _io
from stages._releases import read_chain, read_current
from stages.rollback import rollback

COMMAND = "python -m stages.rollback"
CLOSED_PORT = 9  # "discard": nothing listens there


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Release 1 is int8, release 2 nf4; made once, for it takes seconds."""
    root = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        copy_store(root)
        make_project(root)
        bring_into_force(root)
        win(root, "nf4")
        bring_into_force(root)
    return root


@pytest.fixture
def project(released, tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return shutil.copytree(released, tmp_path / "project")


def test_the_release_before_serves_again_and_the_record_says_so(project):
    record = rollback(project, COMMAND, reason="wrong prices")
    chain = read_chain(project / "releases")
    assert read_current(project / "releases/current.json") == record == chain[2]
    assert (record["kind"], record["release"], record["serves"]) == ("rollback", 3, 1)
    assert (record["incumbent"]["release"], record["reason"]) == (2, "wrong prices")
    carried = ("winners", "scores", "benchmark", "data", "candidates", "decision", "bento")
    for field in (*carried, "images"):
        assert record[field] == chain[0][field], field
    assert aliases(project) == {"challenger": "nf4", "champion": "int8"}


def test_what_to_redeploy_is_named(project, capsys):
    capsys.readouterr()
    rollback(project, COMMAND)
    out = capsys.readouterr().out
    assert "rollback: release 1 took over from 2" in out
    assert "cpu: int8, models/variants/int8" in out
    assert "models/variants/int8 holds it" in out
    assert "Next: git add releases" in out


def test_a_model_that_is_gone_is_named_with_the_command_that_gets_it(project, capsys):
    commit = read_chain(project / "releases")[0]["git"]["commit"]
    make_model(project, "int8", "trained again")
    rollback(project, COMMAND)
    out = capsys.readouterr().out
    assert "models/variants/int8 does not hold it" in out
    assert f"dvc get . models/variants/int8 --rev {commit} --out models/variants/int8" in out


def test_a_second_rollback_does_not_bring_back_what_was_withdrawn(project):
    rollback(project, COMMAND)
    with pytest.raises(StillhouseError, match="Release 1 took over from none"):
        rollback(project, COMMAND)
    assert len(read_chain(project / "releases")) == 3


def test_any_release_can_be_named(project):
    rollback(project, COMMAND)
    assert rollback(project, COMMAND, to=2)["serves"] == 2
    assert aliases(project)["champion"] == "nf4"
    for number in (3, 9):
        with pytest.raises(
            StillhouseError, match=rf"no release {number}\. Name one of these: 1, 2"
        ):
            rollback(project, COMMAND, to=number)


def test_naming_what_serves_only_mends_the_registry(project):
    (project / "mlflow.db").unlink()
    copy_store(project)
    assert rollback(project, COMMAND, to=2)["release"] == 2
    assert aliases(project)["champion"] == "nf4"
    assert not (project / "releases/3.json").exists()


def test_an_interrupted_rollback_is_finished_and_goes_no_further(project, capsys):
    rollback(project, COMMAND)
    second = _io.read_json(project / "releases/2.json")
    _io.write_json(project / "releases/current.json", second)  # written last, so it died before
    assert rollback(project, COMMAND)["release"] == 3
    assert read_current(project / "releases/current.json")["serves"] == 1
    assert "an interrupted rollback is finished" in capsys.readouterr().out


def test_an_interrupted_release_is_gone_back_from(project):
    first = _io.read_json(project / "releases/1.json")
    _io.write_json(project / "releases/current.json", first)
    assert rollback(project, COMMAND)["serves"] == 1
    assert read_current(project / "releases/current.json")["release"] == 3


def test_a_registry_out_of_reach_leaves_everything_as_it_was(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{CLOSED_PORT}")
    with pytest.raises(StillhouseError, match=r"cannot be opened.*STILLHOUSE_TRACKING=off make"):
        rollback(project, COMMAND)
    assert len(read_chain(project / "releases")) == 2


def test_without_a_registry_the_files_go_back_and_aliases_follow_later(
    project, monkeypatch, capsys
):
    monkeypatch.setenv("STILLHOUSE_TRACKING", "off")
    assert rollback(project, COMMAND)["serves"] == 1
    assert "python -m stages.rollback --to 1" in capsys.readouterr().out
    assert aliases(project)["champion"] == "nf4"
    monkeypatch.delenv("STILLHOUSE_TRACKING")
    rollback(project, COMMAND, to=1)
    assert aliases(project)["champion"] == "int8"


def test_what_was_withdrawn_needs_a_reason_to_be_released_again(project):
    rollback(project, COMMAND, reason="wrong prices")
    win(project, "nf4")
    with pytest.raises(
        StillhouseError, match=r"rollback 3 took these .* out of force: wrong prices"
    ):
        bring_into_force(project)
    record = bring_into_force(project, despite="prices mended")
    assert (record["release"], record["incumbent"]["release"]) == (4, 1)


def test_before_the_first_release_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(StillhouseError, match=r'Nothing was released yet\. Run "make release"'):
        rollback(tmp_path, COMMAND)
    assert json.loads((tmp_path / "releases/current.json").read_text()) == {}
