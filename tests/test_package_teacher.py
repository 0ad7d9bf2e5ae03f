"""The teacher's own Bento: what is in it, and that the winner's Bento asks it by its address."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cascade_service import ask
from endpoint_predictors import CONTRACT
from endpoint_server import SETTINGS
from package_cases import FOLDERS, inputs_of, params, run, write_project
from tiny_models import write_model

from serving._cascade.route import Route, Rung, route_content
from serving.completion import Request
from serving.contract import digest, write_contract
from serving.endpoint_settings import write_settings
from serving.errors import StillhouseError
from serving.keys import add_key, disable_key
from stages import _bento, _golden, _io
from stages._served import served
from stages.package import choose, choose_teacher, describe

RECORD = {"prompt": "name[The Eagle], food[fish]"}
# No answer of the first two is ever so sure; the last one's are accepted as they are.
RUNGS = (
    Rung("baseline", "local", 2.0, "confidence", ""),
    Rung("student", "local", 1.0, "mean_logprob", ""),
    Rung("teacher", "local", None, "mean_logprob", ""),
)


def write_route(file, models):
    """A route by which the teacher answers, for these model folders by the names of their rungs."""
    rungs = tuple(replace(one, model_sha256=digest(models[one.name])) for one in RUNGS)
    _io.write_json(file, route_content(Route(rungs, "abstain", 0.1, 0.05, "slots", {}, "")))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """With a teacher that was evaluated, and a route for it."""
    root = write_project(tmp_path_factory.mktemp("teacher"))
    folders = {"baseline": "baseline", "student": "ct2", "teacher": "teacher"}
    models = {name: root / "models" / folder for name, folder in folders.items()}
    sha256 = digest(write_model(models["teacher"], seed=1))
    _io.write_json(root / "reports/evaluate/teacher.json", {"model": {"sha256": sha256}})
    write_route(root / "models/route.json", models)
    return root


def test_the_teacher_is_laid_out_as_what_is_served_and_without_the_route(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(project)
    inputs = inputs_of(project)
    (winner,) = choose(params(), inputs["winner"])
    teacher = choose_teacher(params(), inputs["route"], "cpu")
    assert describe(inputs, winner).route == inputs["route"]
    _bento.lay_out(describe(inputs, teacher), tmp_path)
    assert digest(tmp_path / "models/student") == digest(project / "models/teacher")
    assert {one.name for one in (tmp_path / "models").iterdir()} == {
        "student",
        "baseline",
        "winner.json",
    }


def test_the_teacher_s_bento_has_what_its_engine_needs_on_its_device(project, monkeypatch):
    monkeypatch.chdir(project)
    inputs = inputs_of(project)
    pins = {}
    for device in ("cpu", "cuda"):
        parts = describe(inputs, choose_teacher(params(), inputs["route"], device))
        pins[device] = {pin.partition("==")[0] for pin in parts.requirements}
        assert parts.name == "stillhouse_teacher"
    assert "torch" in pins["cpu"] and "triton" in pins["cuda"] - pins["cpu"]


def test_a_teacher_that_is_an_endpoint_is_refused_before_anything_is_built(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(project)
    write_settings(tmp_path, replace(SETTINGS, base_url="http://127.0.0.1:1/v1"))
    write_contract(tmp_path, CONTRACT)
    settings = params(FOLDERS | {"teacher": str(tmp_path)}, teacher=True)
    with pytest.raises(StillhouseError, match=r"describes an endpoint.* package\.teacher: false"):
        run(project, "endpoint", settings)
    assert not (project / "endpoint").exists()


def test_a_teacher_whose_answers_the_route_would_not_take_is_refused(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(project)
    other = {one.name: Path("models/ct2") for one in RUNGS}
    write_route(tmp_path / "route.json", other)
    with pytest.raises(StillhouseError, match=r'names the teacher .* Run "dvc repro route"'):
        choose_teacher(params(), tmp_path / "route.json", "cpu")
    assert choose_teacher(params(), tmp_path / "none.json", "cpu").kind == "teacher"


@pytest.fixture(scope="module")
def packed(project):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return run(project, "packed", params(teacher=True))


@contextmanager
def serving(packed, kind, place, **settings):
    """One of the Bentos, imported into a store of its own below `place`, and served."""
    report, bentos, _ = packed
    tag, home = report["bentos"][kind]["bento_tag"], place / kind
    _bento.import_archive(bentos / f"{kind}.bento", home, tag)
    quick = {"CUDA_VISIBLE_DEVICES": "", "STILLHOUSE_DRAIN_NOTICE_S": "0"}
    with served(tag, home, _bento.environment(home) | quick | settings, 120.0) as server:
        yield server


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A file of keys, and the one in it with its id."""
    file = tmp_path_factory.mktemp("keys") / "keys.jsonl"
    presented, key = add_key(file, "winner", {})
    return file, presented, key.id


@pytest.fixture(scope="module")
def teacher(packed, keys, tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    with serving(packed, "teacher", place, STILLHOUSE_KEYS=str(keys[0])) as server:
        yield server


def said(folder):
    """What the model in `folder` itself answers."""
    asked = _golden.Golden("one", Request(**RECORD))
    return _golden.predict(folder, [asked], "cpu")[0].text


@pytest.mark.slow
def test_the_teacher_s_bento_answers_as_its_folder_does_and_is_told_apart(project, packed):
    report, bentos, metrics = packed
    found, sha256 = report["bentos"]["teacher"], digest(project / "models/teacher")
    assert found["golden_parity"] == {"requests": 3, "identical": 3}
    assert found["bento_tag"].startswith(f"stillhouse_teacher:{sha256[:12]}-")
    assert (found["candidate"], found["model_sha256"]) == ("teacher", sha256)
    assert found["bento_sha256"] == _io.sha256_file(bentos / "teacher.bento")
    assert found["bento_bytes"] == (bentos / "teacher.bento").stat().st_size
    assert metrics["teacher"]["batched_requests"] == 3
    assert report["bento_tag"] == report["bentos"]["cpu"]["bento_tag"]


@pytest.mark.slow
def test_the_teacher_s_bento_by_itself_speaks_all_protocols_and_has_no_cascade(
    project, teacher, keys
):
    _, key, _ = keys
    expected = said(project / "models/teacher")
    assert ask(teacher, None, "/generate", RECORD)[0] == 401
    assert ask(teacher, key, "/generate", RECORD)[2]["text"] == expected
    told = ask(teacher, key, "/v1/completions", RECORD | {"model": "student"})[2]
    assert told["choices"][0]["text"] == expected
    assert told["system_fingerprint"] == digest(project / "models/teacher")[:12]
    chat = {"model": "student", "messages": [{"role": "user", "content": RECORD["prompt"]}]}
    told = ask(teacher, key, "/v1/chat/completions", chat)[2]
    assert told["choices"][0]["message"]["content"] == expected
    assert [one["id"] for one in ask(teacher, key, "/v1/models")[2]["data"]] == ["student"]


@pytest.mark.slow
def test_the_cascade_of_the_winner_s_bento_asks_the_teacher_s_with_a_key_and_not_without(
    project, packed, teacher, keys, tmp_path
):
    file, key, identity = keys
    told = {"STILLHOUSE_TEACHER_URL": teacher.url, "STILLHOUSE_TEACHER_KEY": key}
    with serving(packed, "cpu", tmp_path, **told) as winner:
        status, _, sure = ask(winner, None, "/cascade", RECORD)
        disable_key(file, identity)
        unsure = ask(winner, None, "/cascade", {"prompt": "name[The Mill], food[pies]"})[2]
    assert (status, sure["routing"]["rung"], sure["routing"]["sure"]) == (200, "teacher", True)
    outcomes = [one["outcome"] for one in sure["routing"]["tried"]]
    assert outcomes == ["unsure", "unsure", "accepted"]
    assert sure["text"] == said(project / "models/teacher") != said(project / "models/ct2")
    assert (unsure["text"], unsure["routing"]["rung"]) == (None, None)
    assert unsure["routing"]["tried"][-1]["outcome"] == "unavailable"
