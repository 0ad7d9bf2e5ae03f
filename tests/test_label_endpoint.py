"""Labels of an endpoint: what was paid for is asked once, and the bill adds up."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from endpoint_server import Reply, answers, as_json, echo, endpoint_server, error, told
from label_endpoint import (
    PROMPTS,
    asked,
    endpoint_params,
    label_again,
    label_with,
    labelled,
    prompt_of,
)
from tiny_pipeline import run_teacher

from serving.errors import StillhouseError
from stages import _io
from stages._labels import PAID_NAME, iterate_labels, read_index, read_labels

TESTS = Path(__file__).parent


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_labels_are_the_server_s_answers_and_the_bill_is_in_the_report(root, capsys):
    with endpoint_server() as server:
        report = label_with(endpoint_params(server.url, {"gold": True}), root)
    prompts = [prompt_of(number) for number in range(PROMPTS)]
    assert asked(server) == prompts
    index = read_index(root / "labels")
    assert (index.manifest.top_k, index.manifest.teacher_revision) == (0, None)
    labels = list(iterate_labels(read_labels(root / "labels", index.manifest)))
    own = [label for label in labels if label.source == "train"]
    assert [label.text for label in own] == [f"echo of {prompt}" for prompt in prompts]
    assert [label.source for label in labels].count("gold") == 2 * PROMPTS
    words = sum(len(prompt.split()) for prompt in prompts)
    cost = report["cost"]
    assert (cost["requests"], cost["prompt_tokens"]) == (PROMPTS, words)
    assert cost["completion_tokens"] == words + 2 * PROMPTS
    assert cost["usd"] == pytest.approx(words * 0.001 + (words + 2 * PROMPTS) * 0.01)
    assert _io.read_json(root / "reports/labels/label.json") == report
    told_first, told_last = capsys.readouterr().err.splitlines()
    assert told_first.startswith("label: 24 prompts are to be asked of tiny (0 are answered, 0 USD")
    assert f"label: {cost['usd']:.4g} USD were paid in this run, {cost['usd']:.4g} in all." in (
        told_last
    )


def test_validation_prompts_are_not_paid_for_as_nothing_would_read_the_answers(root):
    (root / "labels/validation").mkdir(parents=True)
    (root / "labels/validation/index.json").write_text("of a teacher with distributions")
    with endpoint_server() as server:
        report = label_with(endpoint_params(server.url), root)
    assert "validation" not in report
    assert not (root / "labels/validation").exists()
    assert not any("Zizzi" in prompt for prompt in asked(server))


def kill_while_asking(server, number, root):
    """Label in another process and SIGKILL it while it waits for the answer to a prompt."""
    held = replace(echo(prompt_of(number), {}), hold=Event())
    server.replies[prompt_of(number)] = held
    program = [sys.executable, TESTS / "label_endpoint.py", server.url, root]
    places = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    process = subprocess.Popen(program, cwd=root, env=os.environ | {"PYTHONPATH": places})
    while prompt_of(number) not in asked(server):
        assert process.poll() is None, "the labelling ended by itself"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    held.hold.set()
    del server.replies[prompt_of(number)]


def test_kill_9_in_the_middle_of_a_shard_asks_nothing_twice(root, capsys):
    with endpoint_server() as server:
        kill_while_asking(server, 15, root)
        assert len(list((root / "labels").glob("shard-*.json"))) == 1
        killed = asked(server)
        assert killed == [prompt_of(number) for number in range(16)]
        server.seen.clear()
        report = label_with(endpoint_params(server.url), root)
        # the one that was under way was never answered
        assert asked(server) == [prompt_of(number) for number in range(15, PROMPTS)]
        whole = label_with(endpoint_params(server.url), root, "undisturbed")
    assert labelled(root / "labels") == labelled(root / "undisturbed")
    cost = report["cost"]
    assert cost["usd"] == whole["cost"]["usd"] == whole["cost"]["usd_this_run"]
    assert 0 < cost["usd_this_run"] < cost["usd"] / 2
    assert "9 prompts are to be asked of tiny (5 are answered" in capsys.readouterr().err


def test_a_torn_last_line_is_asked_again_and_no_other(root):
    with endpoint_server() as server:
        label_with(endpoint_params(server.url), root)
        whole = labelled(root / "labels")
        path = root / "labels" / PAID_NAME
        path.write_bytes(path.read_bytes()[:-30])
        for shard in (root / "labels").glob("shard-*"):
            shard.unlink()
        server.seen.clear()
        label_with(endpoint_params(server.url), root)
        assert asked(server) == [prompt_of(PROMPTS - 1)]
        label_with(endpoint_params(server.url), root)
        assert len(asked(server)) == 1
    assert labelled(root / "labels") == whole


@pytest.mark.parametrize(
    ("label", "endpoint"),
    [
        ({"max_slot_errors": 0}, {}),
        ({"shard_prompts": 7, "max_answer_tokens": 50}, {}),
        ({"train_prompts": 15}, {}),
        ({}, {"concurrency": 8, "max_retries": 3, "timeout_s": 30.0}),
        ({}, {"price_per_1k_prompt_tokens_usd": 0.0}),
    ],
    ids=["filter", "shards", "fewer", "patience", "price"],
)
def test_what_changes_no_answer_asks_for_none(root, label, endpoint):
    with endpoint_server() as server:
        before = label_with(endpoint_params(server.url), root)
        server.seen.clear()
        report = label_with(endpoint_params(server.url, label, **endpoint), root)
        assert asked(server) == []
    assert report["cost"] == before["cost"] | {"usd_this_run": 0.0}


def test_patience_and_prices_leave_the_shards_as_they_are(root):
    with endpoint_server() as server:
        label_with(endpoint_params(server.url), root)
        before = {p.name: p.stat().st_mtime_ns for p in (root / "labels").glob("shard-*")}
        label_with(endpoint_params(server.url, concurrency=8, max_retries=3), root)
    assert {p.name: p.stat().st_mtime_ns for p in (root / "labels").glob("shard-*")} == before


@pytest.mark.parametrize(
    ("label", "endpoint"),
    [
        ({"generation": {"max_new_tokens": 25}}, {}),
        ({}, {"model": "other"}),
        ({}, {"template": "Say: {prompt}"}),
        ({}, {"revision": "2"}),
    ],
    ids=["decoding", "model", "template", "revision"],
)
def test_answers_to_other_settings_are_not_used(root, label, endpoint):
    with endpoint_server() as server:
        before = label_with(endpoint_params(server.url), root)["cost"]
        server.seen.clear()
        report = label_with(endpoint_params(server.url, label, **endpoint), root)
        assert len(asked(server)) == PROMPTS
        assert report["cost"]["usd"] == report["cost"]["usd_this_run"] > 0
        server.seen.clear()
        again = label_with(endpoint_params(server.url), root)
        assert asked(server) == [], "what was paid for stays"
    assert again["cost"] == before | {"usd_this_run": 0.0}


FAULTS = {
    "500": error(500),
    "garbage": Reply(b"oops"),
    "page": Reply(b"<html>busy</html>", 502),
    "paid garbage": as_json(
        {"choices": [], "usage": {"prompt_tokens": 700, "completion_tokens": 0}}
    ),
    "no counts": answers("x", usage=False),
    "401": error(401),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_server_that_dies_ends_in_one_line_and_loses_nothing(root, fault, capsys):
    with endpoint_server() as server:
        server.replies[prompt_of(15)] = fault
        line = told(lambda: label_with(endpoint_params(server.url), root))
        assert line.startswith(f"{server.url}/chat/completions gave ")
        assert line.endswith(
            f"15 paid answers are kept in {root}/labels/{PAID_NAME}; "
            f'"dvc repro label" goes on from there.'
        )
        assert len(list((root / "labels").glob("shard-*.json"))) == 1
        assert "USD were paid in this run" in capsys.readouterr().err
        del server.replies[prompt_of(15)]
        server.seen.clear()
        report = label_with(endpoint_params(server.url), root)
        assert asked(server) == [prompt_of(number) for number in range(15, PROMPTS)]
        whole = label_with(endpoint_params(server.url), root, "undisturbed")["cost"]
    assert labelled(root / "labels") == labelled(root / "undisturbed")
    garbage = 0.7 if fault is FAULTS["paid garbage"] else 0.0
    assert report["cost"]["usd"] == pytest.approx(whole["usd"] + garbage)
    assert report["cost"]["requests"] == PROMPTS + 1


def test_a_full_disk_ends_in_one_line_and_loses_one_answer_at_most(root):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with endpoint_server() as server:
        run_teacher(endpoint_params(server.url), root)
        resource.setrlimit(resource.RLIMIT_FSIZE, (7000, limits[1]))  # refuses longer files
        try:
            line = told(lambda: label_again(endpoint_params(server.url), root))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        answered = len(asked(server))
        assert f"{root}/labels did not take a paid answer (" in line
        assert f'Make room, then run "dvc repro label" to go on. {answered - 1} paid' in line
        assert len(list((root / "labels").glob("shard-*.json"))) == 1
        label_with(endpoint_params(server.url), root)
        assert len(asked(server)) == PROMPTS + 1
        label_with(endpoint_params(server.url), root, "undisturbed")
    assert labelled(root / "labels") == labelled(root / "undisturbed")


def test_a_lost_shard_is_made_again_from_what_was_paid(root):
    with endpoint_server() as server:
        label_with(endpoint_params(server.url), root)
        before = labelled(root / "labels")
        (root / "labels/shard-00001.jsonl").unlink()
        server.seen.clear()
        label_with(endpoint_params(server.url), root)
        assert asked(server) == []
    assert labelled(root / "labels") == before


def test_more_is_not_asked_for_than_the_limit_would_pay(root):
    with endpoint_server() as server:
        params = endpoint_params(server.url, {"max_usd": 0.5})
        line = told(lambda: label_with(params, root))
        assert line.startswith("label.max_usd is 0.5, but 0 USD are paid and another ")
        assert "Raise it, or label fewer prompts; nothing was asked." in line
        assert asked(server) == []


def test_a_limit_that_reality_would_pass_holds_and_what_was_paid_is_kept(root):
    with endpoint_server() as server:
        for number in range(PROMPTS):  # dearer than any estimate from the text
            server.replies[prompt_of(number)] = answers(f"Pub {number}.", prompt_tokens=300)
        params = endpoint_params(server.url, {"max_usd": 6.0}, concurrency=4)
        line = told(lambda: label_with(params, root))
        assert line.startswith("label.max_usd: 6 is as good as spent (5.")
        assert "paid answers are kept in" in line
        answered = len(asked(server))
        paid = answered * 0.32
        assert 5.5 < paid <= 6.0
        higher = endpoint_params(server.url, {"max_usd": 20.0})
        report = label_with(higher, root)
        assert len(asked(server)) == len(set(asked(server))) == PROMPTS
    assert report["cost"]["usd"] == pytest.approx(PROMPTS * 0.32)
    assert report["cost"]["usd_this_run"] == pytest.approx((PROMPTS - answered) * 0.32)


def test_the_limit_counts_what_earlier_runs_have_paid(root):
    with endpoint_server() as server:
        paid = label_with(endpoint_params(server.url), root)["cost"]["usd"]
        server.seen.clear()
        lower = {"max_usd": paid + 0.01}
        label_with(endpoint_params(server.url, lower), root)
        path = root / "labels" / PAID_NAME
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-6]))
        (root / "labels/shard-00002.jsonl").unlink()
        line = told(lambda: label_with(endpoint_params(server.url, {"max_usd": 1.5}), root))
        assert "USD are paid and another" in line
        assert asked(server) == []


def test_a_limit_without_prices_is_refused(root):
    free = {"price_per_1k_prompt_tokens_usd": 0, "price_per_1k_completion_tokens_usd": 0}
    with endpoint_server() as server:
        params = endpoint_params(server.url, {"max_usd": 1.0}, **free)
        assert "names no prices, so nothing can be counted" in told(
            lambda: label_with(params, root)
        )
        assert asked(server) == []


def test_a_missing_key_is_told_before_anything_is_asked(root, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with endpoint_server() as server, pytest.raises(StillhouseError, match="NO_SUCH_KEY"):
        label_with(endpoint_params(server.url, api_key_env="NO_SUCH_KEY"), root)
    assert server.seen == []
