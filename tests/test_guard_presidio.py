"""Presidio as a second opinion: its patterns and checks, without its engine."""

import sys
from importlib.util import find_spec

import pytest

from serving._guard import Guard, GuardPolicy
from serving._guard.presidio import MAX_CHARS, PresidioCheck
from serving.errors import StillhouseError

installed = pytest.mark.skipif(
    find_spec("presidio_analyzer") is None, reason='presidio_analyzer (extra "privacy") is absent'
)


@pytest.fixture(scope="module")
def presidio() -> PresidioCheck:
    """The recognisers; importing them takes seconds."""
    return PresidioCheck()


@installed
def test_it_finds_what_our_rules_have_no_pattern_for(presidio: PresidioCheck) -> None:
    text = "The NINO is AB 12 34 56 C."
    assert Guard(GuardPolicy()).check_in(text).state == "clean"

    found = Guard(GuardPolicy.from_text("personal.in=mask"), presidio=presidio).check_in(text)

    assert [f.rule for f in found.findings] == ["presidio/UkNinoRecognizer"]
    assert found.text == "The NINO is [uk_nino]."


@installed
def test_what_it_does_not_read_is_not_called_clean(presidio: PresidioCheck) -> None:
    found = Guard(GuardPolicy(), presidio=presidio).check_in("a " * MAX_CHARS)

    assert (found.state, found.reasons) == ("not_run", ("too_long",))


@installed
def test_an_unknown_recogniser_is_told_at_the_start() -> None:
    with pytest.raises(StillhouseError, match="NoSuchRecognizer"):
        PresidioCheck(("NoSuchRecognizer",))


@installed
def test_a_stream_is_held_back_for_it(presidio: PresidioCheck) -> None:
    guard = Guard(GuardPolicy.from_text("personal.out=mask"), presidio=presidio)
    stream = guard.stream_out()

    assert [stream.push("NINO AB 12 34"), stream.push(" 56 C."), stream.end()] == [
        "",
        "",
        "NINO [uk_nino].",
    ]


def test_without_the_extra_it_says_so_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if "pres" not in k})

    with pytest.raises(StillhouseError, match=r"pip install stillhouse\[privacy\]"):
        PresidioCheck()


def test_the_guard_alone_does_not_import_it() -> None:
    import subprocess

    code = "import serving._guard, sys; print('presidio_analyzer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
