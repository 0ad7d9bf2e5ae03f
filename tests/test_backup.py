"""`make backup`: each file by its hash, once, the list of them last; nothing that is private."""

import json
import shutil

import pytest
from backup_cases import append_release, cache, make_small, md5_of
from release_cases import git
from tracking_cases import VARIABLES

from serving.errors import StillhouseError
from stages import _io
from stages._backup.database import why_not
from stages._backup.manifest import list_backups, read_manifest
from stages._backup.place import Place
from stages._provenance import file_md5
from stages.backup import backup


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return make_small(tmp_path / "project")


@pytest.fixture(scope="module")
def s3():
    """Address of moto's server, with a bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "name")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        from s3fs import S3FileSystem

        S3FileSystem(skip_instance_cache=True).mkdir("kept")
        yield
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def remote(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://kept/{tmp_path.name}"
    return str(tmp_path / "remote")


def test_all_that_a_clone_lacks_is_there_under_its_hash(project, remote):
    made = backup(project, remote)
    place = Place(remote)
    manifest = read_manifest(place, made)
    assert set(manifest["files"]) == {"dvc.lock", "releases/1.json", "releases/current.json"} | {
        "mlartifacts/0/run/artifacts/report.json"
    }
    for name, entry in manifest["files"].items():
        kept = place.read(f"files/{entry['sha256'][:2]}/{entry['sha256']}")
        assert kept == (project / name).read_bytes()
    for md5 in manifest["objects"]:
        path = project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        assert place.read(f"dvc/files/md5/{md5[:2]}/{md5[2:]}") == path.read_bytes()
    assert file_md5(project / "models/int8/weights.txt") in manifest["objects"]
    assert (manifest["serves"], manifest["missing"]) == (1, [])
    assert manifest["tracking"] == "there is no mlflow.db"


@pytest.mark.slow
def test_what_has_not_changed_is_not_sent_again(project, remote, capsys):
    first = backup(project, remote)
    assert backup(project, remote) == first
    out = capsys.readouterr().out
    assert "backup: 0 of " in out
    assert "holds all this already: no new backup" in out
    (project / "mlartifacts/0/run/artifacts/other.json").write_text("{}")
    backup(project, remote)
    assert "backup: 1 of " in capsys.readouterr().out
    assert len(list_backups(Place(remote))) == 2


@pytest.mark.slow
def test_prompts_and_what_is_yours_stay_here(project, tmp_path):
    for name in ("data/live/a.jsonl", "data/windows/w/rows.parquet", "data/raw/mine.csv", ".env"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("a prompt that nobody may see")
    backup(project, str(tmp_path / "remote"))
    kept = [path.read_bytes() for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert not any(b"nobody may see" in content for content in kept)


@pytest.mark.slow
def test_one_that_died_halfway_is_no_backup_and_the_next_goes_on(project, tmp_path, capsys):
    remote = tmp_path / "remote"
    made = backup(project, str(remote))
    (remote / f"backups/{made}.json").unlink()  # written last, so it died before
    torn, gone = sorted((remote / "dvc").rglob("??????????????????????????????"))[:2]
    torn.chmod(0o644)
    torn.write_bytes(torn.read_bytes()[:1])
    gone.unlink()
    assert list_backups(Place(str(remote))) == []
    capsys.readouterr()
    backup(project, str(remote))
    assert "backup: 2 of " in capsys.readouterr().out
    assert file_md5(torn) == torn.parent.name + torn.name
    assert not list(remote.rglob("*.part"))


@pytest.mark.slow
def test_what_the_remote_lost_is_sent_again(project, tmp_path, capsys):
    remote = tmp_path / "remote"
    made = backup(project, str(remote))
    shutil.rmtree(remote / "dvc")
    assert backup(project, str(remote)) == made
    assert len([path for path in (remote / "dvc").rglob("*") if path.is_file()]) == 4


@pytest.mark.slow
def test_a_damaged_list_keeps_no_other_backup_off(project, tmp_path, capsys):
    remote = tmp_path / "remote"
    made = backup(project, str(remote))
    (remote / f"backups/{made}.json").write_text("{")
    (project / "mlartifacts/0/run/artifacts/other.json").write_text("{}")
    again = backup(project, str(remote))
    assert "was changed or is torn" in capsys.readouterr().out
    assert read_manifest(Place(str(remote)), again)["serves"] == 1


@pytest.mark.slow
def test_a_release_that_a_later_run_replaced_is_kept_too(project, tmp_path):
    old = file_md5(project / "models/int8/weights.txt")
    lock = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    git(project, "commit", "-qam", "another run")
    manifest = read_manifest(Place(str(tmp_path / "r")), backup(project, str(tmp_path / "r")))
    assert old in manifest["objects"]
    route = md5_of(lock, "models/route.json")
    assert route in manifest["objects"], "by the dvc.lock of its commit"
    assert md5_of(lock, "data/prepared.json") not in manifest["objects"], "serves nobody"


def test_a_champion_that_is_not_in_the_cache_is_refused(project, tmp_path):
    md5 = file_md5(project / "models/int8/weights.txt")
    (project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    with pytest.raises(StillhouseError, match=r"models/int8 of release 1 is neither in DVC"):
        backup(project, str(tmp_path / "remote"))
    assert not (tmp_path / "remote").exists()


@pytest.mark.slow
def test_a_fresh_clone_that_trained_takes_the_champion_from_the_last_backup(project, tmp_path):
    """Its cache has the new models alone, and its history does not reach back to the release."""
    remote = str(tmp_path / "remote")
    first = read_manifest(Place(remote), backup(project, remote))
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / ".git")
    git(project, "init", "-q")
    (project / "models/int8/weights.txt").write_text("trained again")
    lock = json.loads((project / "dvc.lock").read_text())
    lock["stages"]["all"]["outs"] = [
        out | {"md5": cache(project, project / out["path"])}
        for out in lock["stages"]["all"]["outs"]
    ]
    (project / "dvc.lock").write_text(json.dumps(lock))
    second = read_manifest(Place(remote), backup(project, remote))
    assert second["released"] == first["released"]
    assert first["released"]["1"].keys() >= {"models/int8", "models/route.json"}
    assert first["objects"].items() <= second["objects"].items()
    assert second["outs"]["models/int8"] != first["outs"]["models/int8"]
    assert second["missing"] == []


@pytest.mark.slow
def test_what_nobody_has_any_more_is_refused(project, tmp_path):
    remote = tmp_path / "remote"
    backup(project, str(remote))
    shutil.rmtree(project / ".dvc/cache")
    md5 = file_md5(project / "models/int8/weights.txt")
    (remote / "dvc/files/md5" / md5[:2] / md5[2:]).unlink()
    with pytest.raises(StillhouseError, match=rf"has lost dvc/files/md5/{md5[:2]}/{md5[2:]}"):
        backup(project, str(remote))


@pytest.mark.slow
def test_what_else_the_cache_lacks_is_told(project, tmp_path, capsys):
    md5 = md5_of((project / "dvc.lock").read_text(), "data/prepared.json")
    (project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    backup(project, str(tmp_path / "remote"))
    assert "not in DVC's cache, so not in it: data/prepared.json" in capsys.readouterr().out


@pytest.mark.slow
def test_what_an_earlier_release_lost_keeps_no_backup_off(project, tmp_path, capsys):
    """The champion has the same path as the lost model, and is there."""
    shutil.rmtree(project / ".dvc/cache")
    (project / "models/int8/weights.txt").write_text("trained again")
    lock = json.loads((project / "dvc.lock").read_text())
    for out in lock["stages"]["all"]["outs"]:
        out["md5"] = cache(project, project / out["path"])
    (project / "dvc.lock").write_text(json.dumps(lock))
    git(project, "commit", "-qam", "trained again")
    append_release(project, 2)
    made = backup(project, str(tmp_path / "remote"))
    assert read_manifest(Place(str(tmp_path / "remote")), made)["missing"] == []
    assert "of an earlier release nothing has models/int8" in capsys.readouterr().out


@pytest.mark.slow
def test_a_damaged_object_is_not_kept(project, tmp_path):
    md5 = file_md5(project / "models/int8/weights.txt")
    (project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).write_text("rotten")
    with pytest.raises(StillhouseError, match=r"is damaged: its MD5 is not"):
        backup(project, str(tmp_path / "remote"))
    assert list_backups(Place(str(tmp_path / "remote"))) == []


def test_a_store_of_ones_own_is_refused_with_what_to_do(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db/mlflow")
    with pytest.raises(StillhouseError, match=r"no file of this project.*pg_dump.*=off") as caught:
        backup(project, str(tmp_path / "remote"))
    assert "secret" not in str(caught.value)


def test_a_server_keeps_what_it_has(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example.org")
    told = why_not(project)
    assert "tracking.example.org is a server" in told
    assert "secret" not in told
    monkeypatch.setenv("STILLHOUSE_TRACKING", "off")
    assert why_not(project) == "STILLHOUSE_TRACKING is off"


@pytest.mark.parametrize(
    "address", ["", "ftp://host/x", "s3://key:secret@bucket/x", "s3://bucket/x?region=a", "s3://"]
)
def test_what_is_no_place_for_backups_is_refused(address):
    with pytest.raises(StillhouseError, match="is no place for backups"):
        Place(address)


def test_a_remote_that_cannot_be_written_is_one_line(project, tmp_path):
    (tmp_path / "remote").write_text("a file")
    with pytest.raises(StillhouseError, match=r"cannot be used.*Mend that and run") as caught:
        backup(project, str(tmp_path / "remote"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_project_without_a_release_is_kept_as_it_is(project, tmp_path, capsys):
    shutil.rmtree(project / "releases")
    made = backup(project, str(tmp_path / "remote"))
    manifest = json.loads((tmp_path / f"remote/backups/{made}.json").read_text())
    assert manifest["serves"] is None
    assert "nothing was released yet" in capsys.readouterr().out
    assert _io.read_json(project / "releases/current.json") == {}
