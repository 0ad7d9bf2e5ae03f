"""`make restore`: an empty clone has it all again, checked before anything is replaced."""

import json
import shutil

import pytest
from backup_cases import append_release, clone, make_small, md5_of, state
from release_cases import git
from tracking_cases import VARIABLES

from serving.errors import StillhouseError
from stages import _io
from stages._backup.manifest import list_backups, read_manifest, write_manifest
from stages._backup.place import Place
from stages.backup import backup
from stages.restore import restore


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A project and its backup; copies of both are for the tests."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        make_small(root / "project")
        backup(root / "project", str(root / "remote"))
    return root


@pytest.fixture
def place(kept, tmp_path, monkeypatch):
    """A folder with the project, its backup, and an empty clone."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in ("project", "remote"):
        shutil.copytree(kept / name, tmp_path / name)
    clone(tmp_path / "project", tmp_path / "clone")
    return tmp_path


def refused(place, said, **asked):
    """Restore into the clone, expecting one line and nothing changed."""
    before = state(place / "clone")
    with pytest.raises(StillhouseError, match=said) as caught:
        restore(place / "clone", str(place / "remote"), **asked)
    assert "\n" not in str(caught.value)
    assert state(place / "clone") == before


def test_an_empty_clone_has_everything_again(place, capsys):
    assert not (place / "clone/models").exists()
    restore(place / "clone", str(place / "remote"))
    assert state(place / "clone") == state(place / "project")
    assert not list((place / "clone").rglob("*.part"))
    assert not list((place / "clone/scratch/restore").iterdir())
    assert "every hash checked" in capsys.readouterr().out


@pytest.mark.slow
def test_twice_changes_nothing_and_where_it_came_from_neither(place):
    restore(place / "clone", str(place / "remote"))
    for name in ("clone", "project"):
        before = state(place / name)
        restore(place / name, str(place / "remote"))
        assert state(place / name) == before


@pytest.mark.slow
def test_an_interrupted_restore_goes_on(place):
    """What a crash leaves: half the cache, a torn part, dvc.lock put, current.json not yet."""
    restore(place / "clone", str(place / "remote"))
    objects = sorted(path for path in (place / "clone/.dvc/cache").rglob("*") if path.is_file())
    objects[0].unlink()
    objects[1].chmod(0o644)
    objects[1].write_text("torn")
    shutil.rmtree(place / "clone/models")
    (place / "clone/releases/1.json").unlink()
    _io.write_json(place / "clone/releases/current.json", {})
    (backup_id,) = list_backups(Place(str(place / "remote")))
    staging = place / "clone/scratch/restore" / backup_id
    staging.mkdir(parents=True)
    (staging / ("a" * 64)).write_text("of another attempt")
    restore(place / "clone", str(place / "remote"))
    assert state(place / "clone") == state(place / "project")


@pytest.mark.parametrize("kind", ["files", "dvc"])
def test_a_changed_file_in_the_remote_replaces_nothing(place, kind):
    for path in (place / "remote" / kind).rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[::-1] + b"?")
            break
    refused(place, "1 files in .* are not what was sent.*Nothing here was replaced")


def test_a_missing_file_in_the_remote_replaces_nothing(place):
    shutil.rmtree(place / "remote/dvc")
    refused(place, "cannot be used: ")


def test_a_changed_list_is_refused(place):
    (path,) = (place / "remote/backups").iterdir()
    path.write_text(path.read_text().replace('"serves": 1', '"serves": 2'))
    refused(place, r"was changed or is torn\. Take another backup: there is none")


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "mlartifacts/../../outside", "stages/release.py", "releases//x"],
)
def test_no_backup_writes_anywhere_else(place, name):
    remote = Place(str(place / "remote"))
    manifest = read_manifest(remote, list_backups(remote)[0])
    manifest["files"][name] = manifest["files"]["dvc.lock"]
    made = write_manifest(remote, manifest)
    refused(place, "which no backup of a project has", backup=made)


def test_an_unknown_backup_is_refused_with_those_there_are(place):
    refused(place, "has no backup 1. Name one of these: 20", backup="1")
    shutil.rmtree(place / "remote/backups")
    refused(place, "has no backup. Name another place")


def test_no_backup_makes_an_output_of_the_code(place):
    remote = Place(str(place / "remote"))
    manifest = read_manifest(remote, list_backups(remote)[0])
    manifest["outs"]["stages/release.py"] = "0" * 32
    made = write_manifest(remote, manifest)
    refused(place, r"names stages/release\.py, which no backup", backup=made, force=True)


def change(root, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("something of my own")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["dvc.lock", "models/int8/weights.txt", "mlartifacts/0/run/artifacts/report.json"]
)
def test_what_differs_here_is_refused_and_with_force_kept_aside(place, name):
    restore(place / "clone", str(place / "remote"))
    path = place / "clone" / name
    path.unlink()
    change(place / "clone", name)
    refused(place, r"would be overwritten: .*ARGS=--force")
    restore(place / "clone", str(place / "remote"), force=True)
    assert state(place / "clone") == state(place / "project")
    (aside,) = (place / "clone/before-restore").iterdir()
    assert (aside / name).read_text() == "something of my own"


@pytest.mark.slow
def test_an_older_backup_does_not_take_releases_back(place):
    restore(place / "clone", str(place / "remote"))
    append_release(place / "clone", 2)
    refused(place, r"releases/2\.json would be overwritten")
    restore(place / "clone", str(place / "remote"), force=True)
    assert _io.read_json(place / "clone/releases/current.json")["release"] == 1
    assert not (place / "clone/releases/2.json").exists()


@pytest.mark.slow
def test_a_clone_that_is_behind_gets_the_later_records(place):
    git(place / "project", "add", "-A")
    git(place / "project", "commit", "-qm", "Release 1")
    shutil.rmtree(place / "clone")
    clone(place / "project", place / "clone")
    append_release(place / "project", 2)
    backup(place / "project", str(place / "remote"))
    restore(place / "clone", str(place / "remote"))
    assert _io.read_json(place / "clone/releases/current.json")["release"] == 2


@pytest.mark.slow
def test_an_earlier_backup_can_be_named(place):
    (first,) = list_backups(Place(str(place / "remote")))
    append_release(place / "project", 2)
    backup(place / "project", str(place / "remote"))
    restore(place / "clone", str(place / "remote"), backup=first)
    assert _io.read_json(place / "clone/releases/current.json")["release"] == 1


@pytest.mark.slow
def test_a_model_decided_after_the_release_is_not_taken_for_the_champion(place, capsys):
    restore(place / "clone", str(place / "remote"))
    out = capsys.readouterr().out
    commit = _io.read_json(place / "clone/releases/1.json")["git"]["commit"]
    assert "names another model" in out
    assert f"git checkout {commit} -- dvc.lock && dvc checkout --allow-missing" in out


@pytest.mark.slow
def test_stages_that_are_gone_are_not_laid_out(place):
    """dvc.lock keeps them; dvc.yaml and `dvc checkout` do not know them."""
    lock = json.loads((place / "project/dvc.lock").read_text())
    gone = {"path": "models/old", "hash": "md5", "md5": "0" * 32}
    lock["stages"]["gone"] = {"cmd": "true", "outs": [gone]}
    (place / "project/dvc.lock").write_text(json.dumps(lock))
    backup(place / "project", str(place / "remote"))
    (place / "clone/dvc.lock").unlink()
    restore(place / "clone", str(place / "remote"))
    assert state(place / "clone") == state(place / "project")


@pytest.mark.slow
def test_a_clone_of_another_graph_is_told(place):
    (place / "clone/dvc.yaml").write_text("stages: {}\n")
    said = r"did not make data/prepared\.json \(4 in all\).*of another commit"
    with pytest.raises(StillhouseError, match=said):
        restore(place / "clone", str(place / "remote"))
    assert _io.read_json(place / "clone/releases/1.json")["release"] == 1
    assert not (place / "clone/releases/current.json").exists(), "written last"


@pytest.mark.slow
def test_what_the_backup_lacks_is_told(place, capsys):
    md5 = md5_of((place / "project/dvc.lock").read_text(), "data/prepared.json")
    (place / "project/.dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    manifest = backup(place / "project", str(place / "other"))
    restore(place / "clone", str(place / "other"))
    assert "the backup lacks data/prepared.json" in capsys.readouterr().out
    assert not (place / "clone/data/prepared.json").exists()
    listed = json.loads((place / f"other/backups/{manifest}.json").read_text())
    assert listed["missing"] == ["data/prepared.json"]
