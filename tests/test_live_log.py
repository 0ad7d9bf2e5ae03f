"""Records of answers: what the policy keeps of texts, and that no fault costs a request."""

import asyncio
import base64
import json
import os
import subprocess
import sys

import pytest
from live_cases import (
    KEY,
    KEY_TEXT,
    NOON,
    OTHER_KEY,
    all_bytes,
    choice,
    item,
    record,
    turned,
    written,
)
from live_cases import settings as settings_of

from serving._live import log as live_log
from serving._live.checks import Checked, Found
from serving._live.comparing import Compared
from serving._live.files import live_files
from serving._live.log import LiveLog
from serving._live.reading import read_live
from serving._live.records import GuardFinding, LiveRecord, row_of
from serving._live.settings import LiveSettings
from serving._live.shadow import Shadowed
from serving._live.spool import spool_folder
from serving._live.texts import Keeper, open_sealed, read_key
from serving._live.uncertainty import Uncertainty
from serving.errors import StillhouseError
from tests.structure import ROOT

SLOTS = {"service": "secret-api", "secret slot": "1"}


def whole_record():
    """A record with something in every field."""
    compared = Compared(exact=False, slots_equal=True, similarity=0.5, bleu=0.25)
    return LiveRecord(
        time=NOON,
        item=item(prompt="prompt secret", context="context secret", slots=SLOTS),
        choice=choice("answer secret", confidence=0.9, mean_logprob=-0.1, min_logprob=-1.0),
        rung="student",
        models={"student": "a" * 64, "baseline": "b" * 64},
        prompt_tokens=7,
        checked=Checked("found", "ok", (Found("slots", "missing", "service"),), 1, 1, 0, 0),
        uncertainty=Uncertainty(0.5, "confidence", {"confidence": 0.1}),
        sure=True,
        cost_usd=0.001,
        latency_s=0.25,
        cache="memory",
        guard_in="found",
        guard_out="clean",
        guard_findings=[GuardFinding("in", "email", "email", 1, 5)],
        shadows=[Shadowed("baseline", "answered", compared, "shadow secret", 0.1, 0.002)],
    )


def test_every_field_of_a_record_comes_back(tmp_path):
    written(tmp_path, whole_record(), texts="clear")
    assert turned(tmp_path).records == 1

    (row,) = read_live(tmp_path)

    assert row["prompt"] == "prompt secret"
    assert row["context"] == "context secret"
    assert json.loads(row["slots"]) == SLOTS
    assert row["answer"] == "answer secret"
    assert row["shadow_baseline"] == "shadow secret"
    assert row["shadow_teacher"] is None
    (shadow,) = row["shadows"]
    assert (shadow["rung"], shadow["bleu"], shadow["slots_equal"]) == ("baseline", 0.25, True)
    assert row["findings"][0]["slot"] == "service"
    assert row["guard_findings"][0]["kind"] == "email"
    assert row["uncertainty_parts"] == {"confidence": 0.1}
    assert (row["latency_ms"], row["cache"], row["sure"]) == (250.0, "memory", True)


def test_slot_names_are_kept_only_where_the_schema_has_them():
    row = row_of(whole_record(), Keeper("off", None, None), frozenset({"service"}))

    assert row["slot_names"] == ["service"]
    assert "secret" not in json.dumps(row)


def test_hashed_texts_can_be_compared_and_not_read(tmp_path):
    written(tmp_path, record("a"), record("b"), texts="hashed", hash_key=KEY)
    turned(tmp_path)

    one, other = read_live(tmp_path)

    assert b"secret" not in all_bytes(tmp_path)
    assert one["prompt"] == other["prompt"] and len(one["prompt"]) == 64
    assert one["tenant"] != "acme"
    assert Keeper("hashed", OTHER_KEY, None).keep("prompt secret", "", "") != one["prompt"]


def test_sealed_texts_lie_nowhere_in_clear_and_open_with_their_key(tmp_path):
    written(tmp_path, whole_record(), texts="clear", seal_key=KEY)
    assert b"secret" not in all_bytes(tmp_path)
    turned(tmp_path)
    assert b"secret" not in all_bytes(tmp_path)

    (row,) = read_live(tmp_path, KEY)

    assert row["prompt"] == "prompt secret"
    assert row["shadow_baseline"] == "shadow secret"
    assert row["key_id"] == KEY.id


def test_features_are_read_without_the_key(tmp_path):
    written(tmp_path, whole_record(), texts="clear", seal_key=KEY)
    turned(tmp_path)

    (row,) = read_live(tmp_path)

    assert row["prompt"] is None
    assert row["prompt_chars"] == 13


def test_a_wrong_key_is_named_and_so_is_the_right_one(tmp_path):
    written(tmp_path, whole_record(), texts="clear", seal_key=KEY)
    turned(tmp_path)

    with pytest.raises(StillhouseError, match=f"{KEY.id}.*found key {OTHER_KEY.id}"):
        list(read_live(tmp_path, OTHER_KEY))


def test_a_sealed_text_opens_in_its_own_place_only():
    sealed = Keeper("clear", None, KEY).keep("secret", "record-1", "prompt")
    assert open_sealed(sealed, KEY, "record-1", "prompt") == "secret"

    for place in (("record-2", "prompt"), ("record-1", "answer")):
        with pytest.raises(StillhouseError, match="changed, moved or sealed"):
            open_sealed(sealed, KEY, *place)
    with pytest.raises(StillhouseError, match="changed, moved or sealed"):
        open_sealed("no base64", KEY, "record-1", "prompt")


def test_equal_texts_are_sealed_differently():
    keeper = Keeper("clear", None, KEY)

    assert keeper.keep("secret", "1", "prompt") != keeper.keep("secret", "1", "prompt")


def test_half_a_character_is_no_reason_to_fail(tmp_path):
    broken = record("a", choice=choice("half \ud83d"))
    for policy, keys in (("clear", {}), ("clear", {"seal_key": KEY}), ("off", {})):
        assert written(tmp_path, broken, texts=policy, **keys) == ["written"]

    assert turned(tmp_path).spools == 3
    assert len(list(read_live(tmp_path, KEY))) + len(list(tmp_path.glob("rejected/*"))) == 3


@pytest.mark.parametrize(
    ("policy", "hash_key", "seal_key"),
    [("hashed", None, None), ("off", KEY, None), ("off", None, KEY), ("hashed", KEY, KEY)],
)
def test_keys_that_do_not_fit_the_policy_are_refused(tmp_path, policy, hash_key, seal_key):
    settings = settings_of(tmp_path, texts=policy, hash_key=hash_key, seal_key=seal_key)

    with pytest.raises(StillhouseError, match="STILLHOUSE_LIVE_"):
        LiveLog(settings)


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"31" * 15).decode(), "é" * 44])
def test_a_bad_key_is_refused_and_not_shown(text):
    with pytest.raises(StillhouseError, match="openssl rand") as refused:
        read_key(text, "STILLHOUSE_LIVE_SEAL_KEY")

    assert text not in str(refused.value)
    assert KEY_TEXT not in repr(read_key(KEY_TEXT, "KEY"))


def test_settings_name_all_mistakes_at_once():
    environment = {
        "STILLHOUSE_LIVE_TEXTS": "some",
        "STILLHOUSE_LIVE_KEEP_DAYS": "0",
        "STILLHOUSE_LIVE_SHADOW_SHARE": "1.5",
        "STILLHOUSE_LIVE_SEAL_KEY": "key",
    }
    with pytest.raises(StillhouseError) as refused:
        LiveSettings.from_environment(environment)

    assert all(name in str(refused.value) for name in environment)
    good = LiveSettings.from_environment({"STILLHOUSE_LIVE_HASH_KEY": KEY_TEXT})
    assert good.hash_key == KEY


def test_a_folder_that_cannot_be_written_costs_records_alone(tmp_path, caplog):
    (tmp_path / "live").write_text("a file in the way")

    outcomes = written(tmp_path / "live", record("a"), record("b"))

    assert outcomes == ["failed", "failed"]
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


LIMITED = """
import resource, signal, sys
sys.path[:0] = ["tests"]
from pathlib import Path
from live_cases import record, written
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
first = written(Path(sys.argv[1]), record("a"))
large = written(Path(sys.argv[1]), *(record(str(n)) for n in range(9)))
print(first, set(large))
"""


def test_a_file_system_that_takes_no_more_leaves_whole_lines(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("['written'] {"), done.stdout
    assert "failed" in done.stdout
    assert turned(tmp_path).rejected == 0
    assert "a" in {row["request_id"] for row in read_live(tmp_path)}


def test_spools_that_nobody_reads_are_bounded(tmp_path):
    spool_folder(tmp_path).mkdir(parents=True)
    with (spool_folder(tmp_path) / "20261121T120000-1-0.jsonl").open("wb") as old:
        os.truncate(old.fileno(), 2**20 + 1)

    assert written(tmp_path, record("a"), spool_mb=1) == ["spool_full"]


def test_a_full_queue_drops_and_counts(tmp_path):
    outcomes = []
    log = LiveLog(settings_of(tmp_path), observe=outcomes.append)  # not started: nothing is taken
    for number in range(live_log.MAX_RECORDS + 2):
        log.write(record(str(number)))

    assert outcomes == ["queue_full", "queue_full"]


def test_a_queue_is_bounded_in_characters_too(tmp_path):
    outcomes = []
    log = LiveLog(settings_of(tmp_path), observe=outcomes.append)
    long = record("a", choice=choice("x" * (live_log.MAX_CHARACTERS // 2)))
    for _ in range(3):
        log.write(long)

    assert outcomes == ["queue_full"] * 2  # the other texts are some characters, too


def test_a_record_that_cannot_be_made_costs_no_other(tmp_path):
    broken = record("a", models={"student": object()})

    assert sorted(written(tmp_path, broken, record("b"))) == ["failed", "written"]


def test_a_long_spool_is_closed_and_another_begun(tmp_path):
    long = [record(str(n), choice=choice("x" * 700_000)) for n in range(2)]

    async def serve():
        log = LiveLog(settings_of(tmp_path, texts="clear", roll_mb=1), convert=False)
        log.start()
        for one in [*long, *long]:
            log.write(one)
            await asyncio.sleep(0)
        await log.close()

    asyncio.run(serve())

    assert turned(tmp_path).records == 4
    assert list(spool_folder(tmp_path).iterdir()) == []


def test_the_log_turns_what_others_left_into_parquet(tmp_path, monkeypatch):
    written(tmp_path, record("a"))
    monkeypatch.setenv("STILLHOUSE_LIVE_SEAL_KEY", KEY_TEXT)

    async def serve():
        log = LiveLog(settings_of(tmp_path, keep_days=99_999))
        log.start()
        async with asyncio.timeout(60):
            while not live_files(tmp_path) or list(spool_folder(tmp_path).iterdir()):
                await asyncio.sleep(0.05)
        await log.close()

    asyncio.run(serve())
    assert [row["request_id"] for row in read_live(tmp_path)] == ["a"]
