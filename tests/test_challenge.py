"""`make challenge`: what won stands as challenger, in file and registry, and nothing else moves."""

import shutil
import sys

import pytest
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
from stages._proposing import Asked
from stages._releases import read_chain
from stages.challenge import challenge, main
from stages.rollback import rollback

CLOSED_PORT = 9  # "discard": nothing listens there


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """int8 is in force and nf4 has won since; made once, for it takes seconds."""
    root = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        copy_store(root)
        make_project(root)
        bring_into_force(root)
        win(root, "nf4")
        pack(root, "nf4")
    return root


@pytest.fixture
def project(released, tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return shutil.copytree(released, tmp_path / "project")


def propose(project, **asked):
    return challenge(PARAMS, project, Asked(COMMAND, **asked))


def test_the_winner_becomes_challenger_and_nothing_else_changes(project, capsys):
    current = (project / "releases/current.json").read_bytes()
    made = propose(project, images={"cpu": image("1")})
    assert _io.read_json(project / "releases/challenger.json") == made
    assert (made["after"], made["winners"]["cpu"]["candidate"]) == (1, "nf4")
    assert made["images"]["cpu"]["image"] == image("1")
    assert (project / "releases/current.json").read_bytes() == current
    assert len(read_chain(project / "releases")) == 1
    assert aliases(project) == {"challenger": "nf4", "champion": "int8"}
    assert "challenge to release 1 stands" in capsys.readouterr().out


def test_the_registry_knows_the_image(project):
    propose(project, images={"cpu": image("1")})
    client = open_client(project)
    version = client.get_model_version_by_alias("stillhouse", "challenger")
    assert version.tags["image.cpu"] == image("1")


def test_the_same_challenge_keeps_its_time(project):
    made = propose(project)
    _io.write_json(project / "releases/challenger.json", made | {"time": "2001-01-01T00:00:00Z"})
    assert propose(project)["time"] == "2001-01-01T00:00:00Z"


def test_another_image_replaces_the_challenge(project):
    propose(project, images={"cpu": image("1")})
    assert propose(project, images={"cpu": image("2")})["images"]["cpu"]["image"] == image("2")
    assert _io.read_json(project / "releases/challenger.json")["images"]["cpu"]["image"] == image(
        "2"
    )


def test_a_registry_that_forgot_the_challenger_is_mended(project):
    propose(project)
    open_client(project).delete_registered_model_alias("stillhouse", "challenger")
    propose(project)
    assert aliases(project) == {"challenger": "nf4", "champion": "int8"}


def test_a_rollback_ends_the_challenge(project):
    bring_into_force(project)
    make_model(project, "int8", "trained again")
    win(project, "int8")
    propose(project)
    rollback(project, COMMAND)
    assert aliases(project)["challenger"] == "nf4", "what was withdrawn"
    win(project, "int8")
    assert propose(project)["after"] == 3


def test_what_serves_cannot_be_challenged_with_itself(project):
    win(project, "int8")
    with pytest.raises(StillhouseError, match=r"release 1 has these winners already.*nothing to"):
        propose(project)
    assert not (project / "releases/challenger.json").exists()


def test_the_same_model_in_another_image_is_a_challenge(project):
    win(project, "int8")
    pack(project, "int8")
    made = propose(project, images={"cpu": image("1")})
    assert made["winners"]["cpu"]["model_sha256"] == digest(project / "models/variants/int8")


def test_without_a_release_there_is_nothing_to_challenge(tmp_path):
    with pytest.raises(StillhouseError, match=r'Nothing was released yet.*Run "make release"'):
        propose(tmp_path)


def test_what_a_release_refuses_a_challenge_refuses(project, monkeypatch):
    (project / "models/variants/nf4/weights.txt").write_text("tampered")
    with pytest.raises(StillhouseError, match=r"weights\.txt was changed"):
        propose(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{CLOSED_PORT}")
    make_model(project, "nf4", "weights of nf4")
    with pytest.raises(StillhouseError, match="cannot be opened"):
        propose(project)
    monkeypatch.setenv("STILLHOUSE_TRACKING", "off")
    with pytest.raises(StillhouseError, match="STILLHOUSE_TRACKING is off"):
        propose(project)
    assert not (project / "releases/challenger.json").exists()


def test_the_program_ends_in_one_line_and_exit_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["challenge", "--image", "cpu=stillhouse:latest"])
    with pytest.raises(SystemExit, match=r"error: challenge: .*no image by digest"):
        main()
