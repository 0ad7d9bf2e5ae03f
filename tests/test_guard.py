"""The guard: policies, masks, checks that cannot run, and requests with many texts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving._guard import BlockedList, Guard, Guarded, GuardPolicy
from serving._items import Item
from serving.errors import StillhouseError

TEXT = "Ask jane@example.com about the zorblax."


def guard(policy: str, folder: Path | None = None, **settings: object) -> Guard:
    """A guard; with a folder, one that blocks two phrases."""
    blocked = None
    if folder is not None:
        (folder / "blocked.txt").write_text("# invented\nzorblax\nquib dex\n", encoding="utf-8")
        blocked = BlockedList(folder / "blocked.txt")
    return Guard(GuardPolicy.from_text(policy), blocked, **settings)  # type: ignore[arg-type]


class Broken:
    """A second opinion that fails."""

    def find(self, text: str) -> list[object]:
        raise TimeoutError("too slow for " + text)


def test_a_policy_reads_what_is_named_and_keeps_the_rest() -> None:
    policy = GuardPolicy.from_text(" personal.out=mask, blocked.in=block ,")

    assert policy == GuardPolicy("flag", "mask", "block", "off")
    assert policy.groups("in") == ("personal", "blocked")
    assert policy.groups("out") == ("personal",)
    assert GuardPolicy.from_text("") == GuardPolicy()


def test_a_wrong_policy_is_told_all_at_once() -> None:
    with pytest.raises(StillhouseError) as told:
        GuardPolicy.from_text("personal=mask,blocked.in=stop,personal.in=off,personal.in=flag,x")

    for problem in ("'personal=mask' must be", "blocked.in must be", "personal.in is there twice"):
        assert problem in str(told.value)
    assert "'x' must be" in str(told.value)


@pytest.mark.parametrize(
    ("policy", "text", "action"),
    [
        ("personal.out=flag,blocked.out=flag", TEXT, "flag"),
        ("personal.out=mask,blocked.out=flag", "Ask [email] about the zorblax.", "mask"),
        ("personal.out=mask,blocked.out=mask", "Ask [email] about the [blocked].", "mask"),
        ("personal.out=mask,blocked.out=block", "", "block"),
    ],
)
def test_each_group_is_treated_by_its_policy(
    tmp_path: Path, policy: str, text: str, action: str
) -> None:
    found = guard(policy, tmp_path).check_out(TEXT)

    assert (found.text, found.action, found.state) == (text, action, "found")
    assert [(f.rule, f.start, f.end) for f in found.findings] == [
        ("personal/email", 4, 20),
        ("blocked/2", 31, 38),
    ]


def test_what_nobody_looked_for_is_not_called_clean() -> None:
    found = guard("personal.in=off").check_in(TEXT)

    assert (found.text, found.action, found.state, found.personal) == (TEXT, "off", "not_run", None)


def test_clean_text_passes_as_it_is(tmp_path: Path) -> None:
    found = guard("personal.in=block,blocked.in=block", tmp_path).check_in("A quiet pub.")

    assert (found.text, found.action, found.state) == ("A quiet pub.", "off", "clean")
    assert found.personal is False


def test_a_verdict_shows_no_text(tmp_path: Path) -> None:
    found = guard("personal.in=block,blocked.in=flag", tmp_path).check_in(TEXT)

    assert "jane" not in repr(found) and "zorblax" not in repr(found)
    assert "blocked, email" in found.message() and "jane" not in found.message()


def unreadable(folder: Path) -> Guard:
    """A guard whose list went away after the start."""
    made = guard("personal.in=off,blocked.in=ACTION".replace("ACTION", "block"), folder)
    (folder / "blocked.txt").unlink()
    return made


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: guard("personal.in=block", max_chars=20), "too_long"),
        (lambda folder: guard("personal.in=block", presidio=Broken()), "fault"),
        (unreadable, "list_unreadable"),
    ],
)
def test_a_check_that_cannot_run_refuses_under_block(
    tmp_path: Path, make: Callable[[Path], Guard], reason: str
) -> None:
    found = make(tmp_path).check_in("A quiet pub by the river.")

    assert (found.state, found.action, found.text) == ("not_run", "block", "")
    assert found.reasons == (reason,)
    assert found.personal is None
    assert "could not run" in found.message()


@pytest.mark.parametrize("action", ["flag", "mask"])
def test_a_check_that_cannot_run_marks_otherwise(action: str) -> None:
    found = guard(f"personal.in={action}", max_chars=20).check_in("A quiet pub by the river.")

    assert (found.state, found.action) == ("not_run", "flag")
    assert found.text == "A quiet pub by the river."


def test_our_own_findings_survive_a_second_opinion_that_fails() -> None:
    found = guard("personal.out=mask", presidio=Broken()).check_out(TEXT)

    assert (found.state, found.action) == ("not_run", "mask")
    assert found.text == "Ask [email] about the zorblax."


def test_all_texts_of_a_request_are_checked_and_masked() -> None:
    item = Item(
        id="1",
        prompt="name[jane@example.com]",
        context="call +44 20 7946 0958",
        slots={"name": "jane@example.com", "a@b.example.com": "x"},
        decoding={"stop": ["81.2.69.142"], "max_new_tokens": 5},
        prompt_tokens=9,
    )
    guarded = guard("personal.in=mask").check_item(item)

    assert guarded.item.prompt == "name[[email]]"
    assert guarded.item.context == "call [phone]"
    assert guarded.item.slots == {"name": "[email]", "[email]": "x"}
    assert guarded.item.decoding == {"stop": ["[ip]"], "max_new_tokens": 5}
    assert guarded.item.prompt_tokens is None  # it was the length of another text
    assert guarded.verdict.personal is True
    assert {f.where for f in guarded.verdict.findings} == {
        "prompt",
        "context",
        "slots.0",
        "slots.1.name",
        "decoding.0",
    }


def test_a_request_that_is_only_flagged_stays_the_same() -> None:
    item = Item(id="1", prompt="name[jane@example.com]", prompt_tokens=9)
    guarded = guard("personal.in=flag").check_item(item)

    assert guarded.item is item
    assert (guarded.verdict.action, guarded.verdict.personal) == ("flag", True)


def test_one_text_that_was_not_read_leaves_the_whole_request_unknown() -> None:
    item = Item(id="1", prompt="short", context="x" * 50)

    assert guard("personal.in=flag", max_chars=20).check_item(item).verdict.personal is None


def test_every_verdict_is_told_once() -> None:
    told: list[tuple[str, Guarded]] = []
    made = guard("personal.in=flag", observe=lambda side, verdict: told.append((side, verdict)))
    made.check_item(Item(id="1", prompt="a", context="b"))
    made.check_out("c")

    assert [(side, verdict.state) for side, verdict in told] == [("in", "clean"), ("out", "clean")]


def test_policy_and_list_must_belong_together(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError, match="there is no list"):
        guard("blocked.in=flag")
    with pytest.raises(StillhouseError, match="is off"):
        guard("personal.in=flag", tmp_path)
