"""Candidates become versions of a registered model once, roles become aliases.

Against a real SQLite store, a real server, and a real PostgreSQL if one listens on 127.0.0.1:5432.
"""

import os
import signal
import socket
import subprocess
import sys

import pytest
from release_cases import ALL, PARAMS, aliases, copy_store, make_project, versions
from tracking_cases import VARIABLES, open_client, postgres_database

from serving.errors import StillhouseError
from stages._lineage import describe_candidates
from stages._tracking.registry import open_registry, register, set_aliases

CLOSED_PORT = 9  # "discard": nothing listens there


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    copy_store(tmp_path)
    return make_project(tmp_path)


def test_every_candidate_becomes_a_version_with_its_lineage(project):
    candidates = describe_candidates(ALL, project)
    with open_registry(project) as registry:
        numbers = register(registry, candidates, project)
    assert versions(project) == ["teacher", "student", "control", "int8", "nf4"]
    client = open_client(project)
    version = client.get_model_version("stillhouse", str(numbers["int8"]))
    assert version.tags == candidates["int8"]
    assert version.description.startswith("int8 → student ")
    assert version.status == "READY"


def test_a_version_has_a_model_that_holds_the_contract(project):
    candidates = describe_candidates(PARAMS, project)
    with open_registry(project) as registry:
        register(registry, {"int8": candidates["int8"]}, project)
        where = f"tags.model_sha256 = '{candidates['int8']['model_sha256']}'"
        (model,) = registry.client.search_logged_models([registry.experiment_id], where)
    contracts = list((project / "mlartifacts").rglob("contract.json"))
    assert [path.read_bytes() for path in contracts] == [
        (project / "models/variants/int8/contract.json").read_bytes()
    ]
    assert (model.name, str(model.status)) == ("int8", "READY")
    run = open_client(project).get_run(model.source_run_id)
    assert (run.data.tags["stage"], run.info.status) == ("release", "FINISHED")


def test_a_version_belongs_to_the_run_that_made_its_model(project):
    candidates = describe_candidates(PARAMS, project)
    with open_registry(project) as registry:
        made_by = registry.client.create_run(registry.experiment_id).info.run_id
        facts = candidates["nf4"] | {"run_id": made_by}
        number = register(registry, {"nf4": facts}, project)["nf4"]
    assert open_client(project).get_model_version("stillhouse", str(number)).run_id == made_by


def test_registering_twice_makes_no_second_version(project):
    candidates = describe_candidates(PARAMS, project)
    with open_registry(project) as registry:
        first = register(registry, candidates, project)
        runs = len(registry.client.search_runs([registry.experiment_id]))
    with open_registry(project) as registry:
        assert register(registry, candidates, project) == first
        assert len(registry.client.search_runs([registry.experiment_id])) == runs
    assert len(versions(project)) == len(candidates)


def test_an_attempt_that_died_halfway_is_continued(project):
    candidates = describe_candidates(PARAMS, project)
    facts = candidates["int8"]
    with open_registry(project) as registry:
        register(registry, {"student": candidates["student"]}, project)
        registry.client.create_logged_model(  # and then the power went
            registry.experiment_id, "int8", tags={"model_sha256": facts["model_sha256"]}
        )
    with open_registry(project) as registry:
        register(registry, candidates, project)
        where = f"tags.model_sha256 = '{facts['model_sha256']}'"
        (model,) = registry.client.search_logged_models([registry.experiment_id], where)
    assert str(model.status) == "READY"
    assert sorted(versions(project)) == sorted(candidates)


def test_a_model_made_again_from_its_record_does_not_get_another_models_contract(project):
    facts = describe_candidates(PARAMS, project)["int8"] | {"model_sha256": "e" * 64}
    with open_registry(project) as registry:
        register(registry, {"int8": facts}, project)
    assert versions(project) == ["int8"]
    assert not list((project / "mlartifacts").rglob("contract.json"))


def test_aliases_point_to_digests_and_go_where_there_is_none(project):
    candidates = describe_candidates(PARAMS, project)
    digest = {name: facts["model_sha256"] for name, facts in candidates.items()}
    with open_registry(project) as registry:
        register(registry, candidates, project)
        set_aliases(registry, {"champion": digest["int8"], "previous": digest["nf4"]})
        assert aliases(project) == {"champion": "int8", "previous": "nf4"}
        roles = {"champion": digest["nf4"], "previous": None, "challenger": "e" * 64}
        assert list(set_aliases(registry, roles)) == ["champion"], "nobody has that digest"
    assert aliases(project) == {"champion": "nf4"}


def test_the_registered_model_has_the_experiments_name(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team/pubs: main")
    with open_registry(project) as registry:
        assert registry.model == "team-pubs- main"
    with open_registry(project) as registry:
        assert registry.client.get_registered_model("team-pubs- main").aliases == {}


def check_registering(project):
    """Versions once, aliases moved and taken away, in whatever store the environment names."""
    candidates = describe_candidates(PARAMS, project)
    digest = {name: facts["model_sha256"] for name, facts in candidates.items()}
    with open_registry(project) as registry:
        first = register(registry, candidates, project)
        assert register(registry, candidates, project) == first
        set_aliases(registry, {"champion": digest["nf4"], "previous": digest["int8"]})
        set_aliases(registry, {"champion": digest["int8"], "previous": None})
    assert aliases(project) == {"champion": "int8"}
    assert versions(project) == ["student", "int8", "nf4"]


@pytest.mark.slow
def test_postgresql_is_told_the_same(project, monkeypatch):
    with postgres_database() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        check_registering(project)


@pytest.mark.slow
def test_a_server_is_told_the_same(project, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "kept"]
    server = subprocess.Popen(
        [*command, *stores], cwd=project, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("running on" in line for line in server.stderr), "the server did not start"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        check_registering(project)
        assert len(list((project / "kept").rglob("contract.json"))) == 3
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_store_out_of_reach_is_one_line(project, monkeypatch, scheme):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{CLOSED_PORT}")
    with pytest.raises(StillhouseError, match="cannot be opened") as caught, open_registry(project):
        pass
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_store_that_breaks_halfway_is_one_line(project):
    candidates = describe_candidates(PARAMS, project)
    said = "mlflow.db failed: .*Run the same command again"
    with pytest.raises(StillhouseError, match=said) as caught, open_registry(project) as registry:
        (project / "mlflow.db").write_bytes(b"no database" * 1000)
        register(registry, candidates, project)
    assert "\n" not in str(caught.value)


def test_our_own_mistakes_keep_their_traceback(project):
    with pytest.raises(KeyError), open_registry(project) as registry:
        register(registry, {"int8": {}}, project)
