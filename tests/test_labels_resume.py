"""The label store after interruption and damage: nothing is paid twice, nothing bad is used."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from label_cases import answers, contents, label, manifest, write_store

from serving.errors import StillhouseError
from stages._labels import read_index, read_labels, shards_done, write_index, write_shard
from stages._labels.shards import _sealed


def cut(folder):
    path = folder / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def flip(name, place):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[int(place * len(data))] ^= 1
        (folder / name).write_bytes(data)

    return damage


def put_foreign(folder):
    other = manifest(teacher_sha256="f" * 64)
    write_shard(folder, other, 1, [label("e4", 2)])


def swap(folder):
    for suffix in ("safetensors", "jsonl", "json"):
        data = (folder / f"shard-00000.{suffix}").read_bytes()
        (folder / f"shard-00001.{suffix}").write_bytes(data)


def forge(**changes):
    """A description that is consistent in itself, but not with the arrays or its name."""

    def damage(folder):
        path = folder / "shard-00001.json"
        content = json.loads(path.read_bytes())
        del content["sha256"]
        path.write_bytes(_sealed(content | changes))

    return damage


DAMAGES = {
    "arrays-cut": cut,
    "texts-missing": lambda folder: (folder / "shard-00001.jsonl").unlink(),
    "arrays-missing": lambda folder: (folder / "shard-00001.safetensors").unlink(),
    "description-missing": lambda folder: (folder / "shard-00001.json").unlink(),
    "description-empty": lambda folder: (folder / "shard-00001.json").write_bytes(b""),
    "description-odd": lambda folder: (folder / "shard-00001.json").write_bytes(b"[1]"),
    "flip-header": flip("shard-00001.safetensors", 0.01),
    "flip-array": flip("shard-00001.safetensors", 0.9),
    "flip-text": flip("shard-00001.jsonl", 0.3),
    "flip-description": flip("shard-00001.json", 0.6),
    "flip-rejected": flip("shard-00001.json", 0.2),
    "foreign": put_foreign,
    "other-number": swap,
    "forged-labels": forge(labels=5),
    "forged-tokens": forge(tokens=19),
    "forged-number": forge(number=0),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_shard_is_made_again_and_nothing_else(tmp_path, damage):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    write_store(whole)
    write_store(broken)
    damage(broken)
    assert set(shards_done(broken, manifest())) == {0, 2}
    with pytest.raises(StillhouseError, match=r"lacks 1 of 3 shards \(number 1\)"):
        write_index(broken, manifest())
    write_store(broken)
    assert contents(broken) == contents(whole)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write_store(whole)
    write_shard(killed, manifest(), 0, *answers(0, manifest()))
    (killed / ".shard-00001.safetensors.tmp").write_bytes(b"half")
    (killed / ".shard-00002.json.tmp").write_bytes(b"{")
    (killed / ".index.json.x7_a").write_bytes(b"{")
    (killed / "shard-00001.safetensors").write_bytes(b"no description yet")
    (killed / "shard-00009.json").write_bytes(b"of a longer run")
    assert set(shards_done(killed, manifest())) == {0}
    with pytest.raises(StillhouseError, match=r"no index.json \(found: 2 finished shards\)"):
        read_labels(killed, manifest())
    write_store(killed)
    assert contents(killed) == contents(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from label_cases import write_store

wait, left = os.fsync, [int(sys.argv[2])]

def sync(descriptor):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    wait(descriptor)

os.fsync = sync
write_store(Path(sys.argv[1]))
"""


@pytest.mark.parametrize(("syncs", "finished"), [(3, 0), (4, 1), (8, 2), (11, 3)])
def test_kill_9_while_a_file_is_written_costs_one_shard_at_most(tmp_path, syncs, finished):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write_store(whole)
    tests = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, killed, str(syncs), tests, tests.parent]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(shards_done(killed, manifest())) == finished
    assert len(list(killed.glob(".*"))) == 1
    write_store(killed)
    assert contents(killed) == contents(whole)


def test_every_flipped_byte_of_a_description_is_noticed(tmp_path):
    write_shard(tmp_path, manifest(), 0, *answers(0, manifest()))
    path = tmp_path / "shard-00000.json"
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert not shards_done(tmp_path, manifest()), place
    path.write_bytes(data)
    assert set(shards_done(tmp_path, manifest())) == {0}


def test_a_changed_file_is_noticed_before_training(tmp_path):
    write_store(tmp_path)
    flip("shard-00000.safetensors", 0.7)(tmp_path)
    (tmp_path / "rejected.jsonl").unlink()
    told = "rejected.jsonl is missing"
    with pytest.raises(StillhouseError, match=f"shard-00000.safetensors was changed; {told}"):
        read_labels(tmp_path, manifest())


def test_writing_a_shard_opens_a_finished_store_again(tmp_path):
    write_store(tmp_path)
    write_shard(tmp_path, manifest(), 0, *answers(0, manifest()))
    with pytest.raises(StillhouseError, match=r"no index.json \(found: 3 finished shards\)"):
        read_index(tmp_path)


def test_a_full_disk_ends_in_one_line_and_loses_no_finished_shard(tmp_path):
    write_shard(tmp_path, manifest(), 0, *answers(0, manifest()))
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # the system refuses longer files
    try:
        with pytest.raises(StillhouseError, match=r"did not take shard 1 \(.*\); finished shards"):
            write_shard(tmp_path, manifest(), 1, *answers(1, manifest()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "is no label index"),
        ('{"manifest": {}, "labels": [], "files": {}, "totals": {}}', "schema version None"),
        (
            '{"manifest": {"schema_version": 1, "x": 0}, "labels": [], "files": {}, "totals": {}}',
            r"unknown fields \['x'\], missing fields \['data_sha256'",
        ),
    ],
    ids=["no-json", "no-index", "no-version", "fields"],
)
def test_an_index_that_cannot_be_read_is_told_in_one_line(tmp_path, text, told):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(StillhouseError, match=told):
        read_index(tmp_path)


def test_counts_add_up_and_rejected_answers_are_kept_with_their_reason(tmp_path):
    totals = write_store(tmp_path).totals
    size = sum(path.stat().st_size for path in tmp_path.glob("shard-*"))
    assert totals == {
        "shards": 3,
        "answers": 12,
        "labels": 8,
        "labels_by_source": {"train": 8},
        "rejected": 4,
        "rejected_by_reason": {"empty": 2, "unfinished": 2},
        "tokens": 2 * (3 + 4 + 5 + 6),
        "tokens_rejected": 28,
        "bytes": size,
        "bytes_per_token": round(size / 36, 2),
    }
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["example_id"], row["reason"]) for row in rows] == [
        ("e0", "empty"),
        ("e4", "empty"),
        ("e8", "unfinished"),
        ("e9", "unfinished"),
    ]
    assert read_index(tmp_path).totals == totals
