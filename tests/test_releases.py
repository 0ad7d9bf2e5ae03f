"""Decision records: numbered, chained, never changed; what is in force is what they say."""

import fcntl
import json
import os

import pytest

from serving.errors import StillhouseError
from stages import _io
from stages._challenges import next_challenge, read_challenge, write_challenge
from stages._releases import (
    SINCE_2,
    append,
    before,
    holding,
    images_of,
    in_force,
    next_record,
    read_chain,
    read_current,
    repair,
    same_winners,
    withdrawn,
)
from stages._roles import image_tags, roles


def winners(cpu, cuda=None):
    def winner(name):
        return name and {"candidate": name, "folder": f"models/{name}", "model_sha256": name * 64}

    return {"cpu": winner(cpu), "cuda": winner(cuda)}


def decision(cpu, cuda=None, kind="release", images=None):
    return {
        "kind": kind,
        "time": "2030-01-01T00:00:00+00:00",
        "by": "somebody",
        "command": "python -m stages.release",
        "reason": "",
        "git": {"commit": "c" * 40, "dirty": False},
        "winners": winners(cpu, cuda),
        "scores": {"cpu": {}},
        "benchmark": {"cpu": {}},
        "data": {},
        "candidates": {},
        "decision": {},
        "bento": None,
        "images": images or {},
        "canary": {"verdict": "waived", "reason": ""},
    }


def add(folder, cpu, cuda=None, serves=None, images=None):
    chain = read_chain(folder)
    made = decision(cpu, cuda, "rollback" if serves else "release", images)
    append(folder, next_record(folder, chain, made, serves))
    return read_chain(folder)


def test_current_is_none_before_the_first_release_and_then_the_last_record(tmp_path):
    _io.write_json(tmp_path / "current.json", {})
    assert read_current(tmp_path / "current.json") is None
    add(tmp_path, "a")
    chain = add(tmp_path, "b")
    assert [record["release"] for record in chain] == [1, 2]
    assert read_current(tmp_path / "current.json") == chain[-1]
    assert (tmp_path / "current.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_each_record_names_the_one_before_and_what_was_in_force(tmp_path):
    add(tmp_path, "a")
    first, second = add(tmp_path, "b")
    assert (first["previous_sha256"], first["incumbent"]) == (None, None)
    assert second["previous_sha256"] == _io.sha256_file(tmp_path / "1.json")
    assert second["incumbent"] == {"release": 1, "winners": winners("a")}


def test_a_changed_record_is_noticed(tmp_path):
    add(tmp_path, "a")
    add(tmp_path, "b")
    text = (tmp_path / "1.json").read_text()
    (tmp_path / "1.json").write_text(text.replace("somebody", "nobody"))
    with pytest.raises(
        StillhouseError, match=r"2\.json does not follow on .*1\.json.*git checkout"
    ):
        read_chain(tmp_path)


def test_a_record_taken_out_is_noticed(tmp_path):
    for name in "abc":
        add(tmp_path, name)
    (tmp_path / "2.json").unlink()
    with pytest.raises(StillhouseError, match=r"3\.json but no 2\.json"):
        read_chain(tmp_path)


def test_a_record_under_another_number_is_noticed(tmp_path):
    add(tmp_path, "a")
    (tmp_path / "1.json").rename(tmp_path / "2.json")
    add_first = json.loads((tmp_path / "2.json").read_text()) | {"release": 7}
    _io.write_json(tmp_path / "1.json", add_first)
    with pytest.raises(StillhouseError, match=r"1\.json does not follow"):
        read_chain(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"is not JSON\. Run \"git checkout"),
        ("[]", "is no decision record"),
        ('{"schema_version": 1}', "it lacks .*winners"),
    ],
    ids=["damaged", "a list", "without fields"],
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "current.json").write_text(text)
    with pytest.raises(StillhouseError, match=said) as caught:
        read_current(tmp_path / "current.json")
    assert "\n" not in str(caught.value)


def test_a_record_of_a_newer_schema_is_refused(tmp_path):
    (record,) = add(tmp_path, "a")
    _io.write_json(tmp_path / "current.json", record | {"schema_version": 99})
    with pytest.raises(StillhouseError, match="schema version 99, this program reads up to 2"):
        read_current(tmp_path / "current.json")


def test_a_missing_current_file_is_no_first_release(tmp_path):
    with pytest.raises(StillhouseError, match="is missing"):
        read_current(tmp_path / "current.json")


def test_a_current_file_that_a_crash_left_behind_is_mended(tmp_path):
    add(tmp_path, "a")
    chain = add(tmp_path, "b")
    for left in (chain[0], {}):
        _io.write_json(tmp_path / "current.json", left)
        assert repair(tmp_path, chain)
        assert read_current(tmp_path / "current.json") == chain[-1]
    assert not repair(tmp_path, chain), "nothing is left to mend"


def test_a_current_file_of_foreign_content_is_not_overwritten(tmp_path):
    chain = add(tmp_path, "a")
    _io.write_json(tmp_path / "current.json", chain[0] | {"by": "nobody"})
    with pytest.raises(StillhouseError, match="is a copy of no record"):
        repair(tmp_path, chain)
    assert _io.read_json(tmp_path / "current.json")["by"] == "nobody"


def test_the_first_folder_gets_an_empty_current_file(tmp_path):
    with holding(tmp_path / "releases"):
        assert not repair(tmp_path / "releases", [])
    assert (tmp_path / "releases/current.json").read_text() == "{}\n"


def test_two_releases_of_one_checkout_wait_for_each_other(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with holding(tmp_path), pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_rollback_serves_an_earlier_release_and_the_next_one_goes_further_back(tmp_path):
    for name in "abc":
        add(tmp_path, name)
    chain = add(tmp_path, "b", serves=2)
    assert (chain[-1]["release"], chain[-1]["serves"]) == (4, 2)
    assert in_force(chain) == chain[1]
    assert before(chain) == chain[0], "not back to what was just taken out of force"
    chain = add(tmp_path, "d")
    assert chain[-1]["incumbent"] == {"release": 2, "winners": winners("b")}
    assert before(chain) == chain[1]


def test_there_is_nothing_before_the_first_release(tmp_path):
    assert (in_force([]), before([])) == (None, None)
    assert before(add(tmp_path, "a")) is None


def test_roles_follow_the_records(tmp_path):
    assert set(roles([]).values()) == {None}
    add(tmp_path, "a")
    chain = add(tmp_path, "b", cuda="g")
    cpu = {"challenger": "b" * 64, "champion": "b" * 64, "previous": "a" * 64}
    cuda = {"challenger-cuda": "g" * 64, "champion-cuda": "g" * 64, "previous-cuda": None}
    assert roles(chain) == cpu | cuda
    after = roles(add(tmp_path, "a", serves=1))
    assert (after["champion"], after["challenger"]) == ("a" * 64, "b" * 64)
    assert (after["previous"], after["champion-cuda"]) == (None, None)


def test_a_standing_challenge_takes_the_challengers_role_and_no_other(tmp_path):
    add(tmp_path, "a")
    chain = add(tmp_path, "b")
    pending = next_challenge(chain, decision("c"))
    assert roles(chain, pending) == roles(chain) | {"challenger": "c" * 64}


def test_a_model_in_two_images_is_tagged_with_the_champions(tmp_path):
    old, new = ({"cpu": {"image": name, "bento_tag": "", "bento_sha256": ""}} for name in "xy")
    chain = add(tmp_path, "a", images=old)
    pending = next_challenge(chain, decision("a", images=new))
    assert image_tags(chain, pending) == {"a" * 64: {"image.cpu": "x"}}
    pending = next_challenge(chain, decision("b", images=new))
    assert image_tags(chain, pending)["b" * 64] == {"image.cpu": "y"}


def test_a_challenge_stands_until_the_next_record(tmp_path):
    chain = add(tmp_path, "a")
    assert read_challenge(tmp_path, chain) is None
    made = next_challenge(chain, decision("b"))
    write_challenge(tmp_path, made)
    assert read_challenge(tmp_path, chain) == made
    assert read_chain(tmp_path) == chain, "it is no record"
    assert read_challenge(tmp_path, add(tmp_path, "c")) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}'])
def test_a_damaged_challenge_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "challenger.json").write_text(text)
    with pytest.raises(StillhouseError, match=r"no challenge\. Delete it and run") as caught:
        read_challenge(tmp_path, [])
    assert "\n" not in str(caught.value)


def test_records_of_the_first_schema_are_read_and_followed_on(tmp_path):
    chain = add(tmp_path, "a")
    old = {name: value for name, value in chain[0].items() if name not in SINCE_2}
    _io.write_json(tmp_path / "1.json", old | {"schema_version": 1})
    _io.write_json(tmp_path / "current.json", old | {"schema_version": 1})
    chain = read_chain(tmp_path)
    assert not repair(tmp_path, chain)
    assert images_of(chain[0]) == {}
    first, second = add(tmp_path, "b")
    assert second["previous_sha256"] == _io.sha256_file(tmp_path / "1.json")
    assert (first["schema_version"], second["schema_version"]) == (1, 2)


def test_a_record_of_the_second_schema_needs_its_images(tmp_path):
    (record,) = add(tmp_path, "a")
    del record["images"]
    _io.write_json(tmp_path / "current.json", record)
    with pytest.raises(StillhouseError, match=r"it lacks \['images'\]"):
        read_current(tmp_path / "current.json")


def test_winners_are_the_same_by_digest_on_every_device():
    renamed = winners("a")
    renamed["cpu"] |= {"candidate": "other", "folder": "elsewhere"}
    assert same_winners(winners("a"), renamed)
    assert not same_winners(winners("a"), winners("b"))
    assert not same_winners(winners("a"), winners("a", "g"))


def test_what_a_rollback_took_out_of_force_is_withdrawn_until_released_again(tmp_path):
    add(tmp_path, "a")
    assert withdrawn(add(tmp_path, "b"), winners("b"), {}) is None
    chain = add(tmp_path, "a", serves=1)
    assert withdrawn(chain, winners("b"), {}) == chain[-1]
    assert withdrawn(chain, winners("a"), {}) is None
    assert withdrawn(add(tmp_path, "b"), winners("b"), {}) is None


def test_an_image_is_withdrawn_though_its_model_serves_on(tmp_path):
    old, new = ({"cpu": {"image": name, "bento_tag": "", "bento_sha256": ""}} for name in "xy")
    add(tmp_path, "a", images=old)
    add(tmp_path, "a", images=new)
    chain = add(tmp_path, "a", serves=1, images=old)
    assert withdrawn(chain, winners("a"), {"cpu": "y"}) == chain[-1]
    assert withdrawn(chain, winners("a"), {"cpu": "x"}) is None
