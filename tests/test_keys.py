"""Keys: stored as hashes, refused for one reason each, taken over from a changed file or not."""

import json
import logging
import os
import stat
import sys
from datetime import UTC, datetime, timedelta

import pytest

from serving import keys
from serving._items import ServiceError
from serving._keys import Key, Keyring, bearer, hash_key, identify, is_local, open_keyring
from serving.errors import StillhouseError
from serving.keys import add_key, disable_key

LOCAL = Key(id="0" * 12, tenant="local", sha256="0" * 64)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.jsonl"


def made(file, tenant="acme", **limits):
    return add_key(file, tenant, limits)


def refused(call):
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value


def told(call):
    with pytest.raises(StillhouseError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scope(path="/generate", client=("127.0.0.1", 1), *headers):
    return {"type": "http", "path": path, "client": client, "headers": list(headers)}


def show(presented):
    return (b"authorization", b"Bearer " + presented.encode())


def test_each_tenant_is_known_by_its_key(file):
    first, _ = made(file, "acme", requests_per_minute=60)
    second, _ = made(file, "blue")
    ring = Keyring(file)
    assert (ring.find(first).tenant, ring.find(first).requests_per_minute) == ("acme", 60)
    assert ring.find(second).tenant == "blue"


def test_a_key_stands_nowhere_but_in_its_callers_hands(file, caplog):
    caplog.set_level(logging.DEBUG)
    presented, key = made(file)
    ring = Keyring(file)
    ring.find(presented)
    error = refused(lambda: ring.find(presented[:-1] + "!"))
    everywhere = file.read_text() + caplog.text + error.message + repr(key) + repr(vars(ring))
    assert presented[-40:-2] not in everywhere
    assert hash_key(presented) in file.read_text()


@pytest.mark.parametrize("change", [str.upper, lambda k: k[:-1] + "AB"[k[-1] == "A"], lambda k: ""])
def test_a_key_that_differs_in_anything_is_unknown(file, change):
    presented, _ = made(file)
    error = refused(lambda: Keyring(file).find(change(presented)))
    assert (error.refusal, error.status) == ("invalid_key", 401)


def test_a_secret_under_another_keys_id_is_unknown(file):
    first, second = made(file, "acme")[0], made(file, "blue")[0]
    mixed = first[:16] + second[16:]
    assert refused(lambda: Keyring(file).find(mixed)).refusal == "invalid_key"


def test_expired_and_disabled_keys_say_so(file):
    past = datetime.now(UTC) - timedelta(seconds=1)
    expired, disabled = made(file, expires=past)[0], made(file)
    disable_key(file, disabled[1].id)
    ring = Keyring(file)
    assert "expired" in refused(lambda: ring.find(expired)).message
    assert "disabled" in refused(lambda: ring.find(disabled[0])).message


def test_a_changed_file_is_taken_over_while_serving(file):
    first, key = made(file)
    ring = Keyring(file)
    second, _ = made(file, "blue")
    assert ring.find(second).tenant == "blue"
    disable_key(file, key.id)
    assert "disabled" in refused(lambda: ring.find(first)).message


@pytest.mark.parametrize("content", ["", "\n", '{"id": "half', b"\xff\xfe", None])
def test_a_broken_file_leaves_the_keys_as_they_were(file, content, caplog):
    presented, _ = made(file)
    ring = Keyring(file)
    before = file.read_bytes()
    file.unlink() if content is None else file.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    for _ in range(2):
        assert ring.find(presented).tenant == "acme"
    assert ring.fault and len(caplog.records) == 1, "reported, and once"
    file.write_bytes(before)
    file.chmod(0o600)
    ring.find(presented)
    assert ring.fault is None


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o666, 0o644])
def test_a_file_that_others_may_read_or_its_group_write_is_refused(file, mode):
    made(file)
    file.chmod(mode)
    assert f"{mode:o}" in told(lambda: Keyring(file))
    file.chmod(0o640)
    assert Keyring(file).configured


GOOD = {"id": "0" * 12, "tenant": "a", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "0" * 12, "tenant": "a"}, "sha256: Field required"),
        (GOOD | {"tenant": "a b"}, "tenant"),
        (GOOD | {"sha256": "SECRET"}, "sha256"),
        (GOOD | {"SECRET": 1}, "an unknown field"),
        (GOOD | {"expires": "2030-01-01T00:00:00"}, "timezone"),
        (GOOD | {"enabled": "no"}, "enabled"),
        (GOOD | {"tokens_per_minute": 0}, "tokens_per_minute"),
        (["SECRET"], "the line"),
        ("SECRET", "the line"),
    ],
)
def test_a_line_that_is_no_key_is_named_and_never_quoted(line, said):
    message = told(lambda: Keyring(lines=json.dumps(line)))
    assert said in message and "line 1" in message and "SECRET" not in message
    assert "SECRET" not in told(lambda: Keyring(lines="sh_SECRET"))


def test_an_id_stands_once(file):
    made(file)
    assert "twice" in told(lambda: Keyring(lines=file.read_text() * 2))


def test_keys_come_from_a_file_or_from_the_environment_not_both(file):
    presented, _ = made(file)
    lines = file.read_text()
    assert open_keyring({"STILLHOUSE_KEYS": str(file)}).find(presented).tenant == "acme"
    assert open_keyring({"STILLHOUSE_KEY_LINES": lines}).find(presented).tenant == "acme"
    both = {"STILLHOUSE_KEYS": str(file), "STILLHOUSE_KEY_LINES": lines}
    assert "both" in told(lambda: open_keyring(both))
    assert not open_keyring({}).configured
    assert "serving.keys add" in told(lambda: open_keyring({"STILLHOUSE_KEYS": f"{file}.gone"}))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"\xff\x00 \xfe")],
        [(b"authorization", b"Bearer \xff\xed\xa0\x80")],
    ],
)
def test_anything_but_one_bearer_key_is_401(file, headers):
    made(file)
    error = refused(lambda: identify(scope("/", None, *headers), Keyring(file), LOCAL))
    assert error.status == 401


def test_a_good_key_shown_twice_is_401(file):
    header, ring = show(made(file)[0]), Keyring(file)
    assert identify(scope("/", None, header), ring, LOCAL).tenant == "acme"
    for headers in ([header, header], [header, show("other")]):
        assert refused(lambda h=headers: identify(scope("/", None, *h), ring, LOCAL)).status == 401


def test_the_schemes_case_does_not_matter():
    assert bearer([(b"authorization", b"bEARER  key ")]) == "key"


def test_with_keys_even_this_machine_needs_one(file):
    presented, _ = made(file)
    ring = Keyring(file)
    assert refused(lambda: identify(scope(), ring, LOCAL)).status == 401
    remote = scope("/generate", ("8.8.8.8", 1), show(presented))
    assert identify(remote, ring, LOCAL).tenant == "acme"


@pytest.mark.parametrize(
    ("client", "headers", "local"),
    [
        (("127.0.0.1", 1), [], True),
        (("127.8.0.1", 1), [], True),
        (("::1", 1), [], True),
        (("::ffff:127.0.0.1", 1), [], True),
        (("10.0.0.1", 1), [], False),
        (("::ffff:10.0.0.1", 1), [], False),
        (("localhost", 1), [], False),
        (None, [], False),
        (("127.0.0.1", 1), [(b"x-forwarded-for", b"127.0.0.1")], False),
        (("127.0.0.1", 1), [(b"forwarded", b"for=127.0.0.1")], False),
    ],
)
def test_without_keys_this_machine_alone_is_served(client, headers, local):
    asked = scope("/generate", client, *headers)
    assert is_local(asked) is local
    if local:
        assert identify(asked, Keyring(), LOCAL) is LOCAL
    else:
        assert refused(lambda: identify(asked, Keyring(), LOCAL)).status == 403


def test_a_key_asks_its_own_paths_alone(file):
    presented, key = made(file, paths=("/v1/", "/generate"))
    assert key.may_ask("/v1/models") and key.may_ask("/generate")
    assert not any(key.may_ask(path) for path in ("/baseline", "/generate/", "/generate\n", "/v1"))
    error = refused(lambda: identify(scope("/x", None, show(presented)), Keyring(file), LOCAL))
    assert error.status == 403


def test_the_command_shows_the_key_once_and_keeps_its_hash(file, capsys, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_KEYS", str(file))
    keys.run(["add", "--tenant", "acme", "--tokens-per-minute", "900", "--expires-days", "1"])
    printed = capsys.readouterr()
    key = Keyring(file).find(printed.out.strip())
    assert (key.tokens_per_minute, key.expires > datetime.now(UTC)) == (900, True)
    assert printed.out.strip() not in printed.err and key.id in printed.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys.run(["disable", "--id", key.id])
    assert "disabled" in refused(lambda: Keyring(file).find(printed.out.strip())).message


def test_a_mode_that_is_mended_is_noticed(file):
    presented, _ = made(file)
    ring = Keyring(file)
    made(file)
    file.chmod(0o644)
    assert ring.find(presented) and "chmod 640" in ring.fault
    file.chmod(0o640)
    assert ring.find(presented) and ring.fault is None


def test_the_commands_mistakes_are_one_line(file, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["keys", "add", "--file", str(file), "--tenant", "no spaces"])
    with pytest.raises(SystemExit, match=r"error: nothing was written\. Mend tenant"):
        keys.main()
    assert not file.exists()
    made(file)
    assert "Choose one" in told(lambda: disable_key(file, "nobody"))
    assert "folder" in told(lambda: made(file.parent / "gone" / "keys"))
    file.write_text("broken")
    assert "line 1" in told(lambda: made(file)) and file.read_text() == "broken"


def test_writing_keeps_the_files_mode_and_the_link_to_it(file):
    made(file)
    file.chmod(0o640)
    link = file.parent / "link"
    link.symlink_to(file)
    presented, _ = made(link)
    assert link.is_symlink() and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert Keyring(file).find(presented)
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_keys_that_are_added_at_once_are_all_there(file):
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            for _ in range(5):
                made(file)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(file.read_text().splitlines()) == 20
