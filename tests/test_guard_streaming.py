"""An answer in pieces: masked as if it had come whole, and little of it held back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving._guard import BlockedList, Guard, GuardPolicy, MaskingStream

PARTS = [
    "jane.doe (at) example (dot) com",
    "jane@example.com",
    "DE89 3704 0044 0532 0130 00",
    "GB82 WEST 1234 5698 7654 32",
    "4111 1111 1111 1111",
    "+44 (0)20 7946 0958",
    "Steuer-IdNr. 36 574 261 809",
    "https://u:p@example.com",
    "zorblax",
    "z o r b l a x",
    "make a\nfrumple",
    "make a fuss.",
    "The Eagle, a quiet pub,",
    "ＦＵＬＬ　ｗｉｄｔｈ １２",
    "zor\u200bblax e\u0301t",
    "é \u00a0 ½ (",
    "at 00:03 UTC, 90 % of",
    ") [at] dot",
    "\n\n",
]


@pytest.fixture(scope="module")
def masking(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    path = tmp_path_factory.mktemp("guard") / "blocked.txt"
    path.write_text("zorblax\nmake a frumple\n", encoding="utf-8")
    return Guard(GuardPolicy.from_text("personal.out=mask,blocked.out=mask"), BlockedList(path))


def run(stream: MaskingStream, text: str, sizes: list[int]) -> list[str]:
    """The pieces that go on when `text` comes in pieces of these sizes, over and over."""
    pieces, position = [], 0
    while position < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream.push(text[position : position + size]))
        position += size
    return [*pieces, stream.end()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=12)), max_size=14),
    glue=st.sampled_from([" ", "", ". ", "  "]),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_the_pieces_make_the_text_that_masking_the_whole_makes(
    masking: Guard, parts: list[str], glue: str, sizes: list[int]
) -> None:
    text = glue.join(parts)
    stream = masking.stream_out()
    whole = masking.check_out(text)

    assert "".join(run(stream, text, sizes)) == whole.text
    verdict = stream.guarded()
    assert (verdict.action, verdict.state) == (whole.action, whole.state)
    assert sorted(verdict.findings) == sorted(whole.findings)


@pytest.mark.parametrize("part", PARTS)
def test_a_long_answer_is_masked_the_same_however_it_is_cut(masking: Guard, part: str) -> None:
    text = f"The pub stands by the river {part} and more. " * 40

    assert "".join(run(masking.stream_out(), text, [3, 1, 7])) == masking.check_out(text).text


def test_plain_words_are_held_back_by_one_word_at_most(masking: Guard) -> None:
    text = "The quiet pub by the river serves good English food to families all day long"
    stream = masking.stream_out()
    sent = held = 0
    for place, piece in enumerate(text, 1):
        sent += len(stream.push(piece))
        held = max(held, place - sent)

    assert held <= len("families ") + 1


def test_what_has_no_break_is_held_back_up_to_a_bound(masking: Guard) -> None:
    stream = masking.stream_out()
    sent = held = 0
    for place in range(100, 20_001, 100):
        sent += len(stream.push("12x" * 33 + "1"))
        held = max(held, place - sent)

    assert held <= 4_100


def test_a_blocked_answer_gives_no_more_away(masking: Guard) -> None:
    blocking = Guard(GuardPolicy.from_text("blocked.out=block"), masking.blocked)
    stream = blocking.stream_out()
    sent = run(stream, "We know how to make a frumple at home without any tools", [4])

    assert "".join(sent) == "We know how to "
    assert stream.blocked and stream.guarded().action == "block"


def test_a_policy_that_only_flags_holds_nothing_back() -> None:
    stream = Guard(GuardPolicy()).stream_out()

    assert run(stream, "Ask jane@example.com", [6]) == ["Ask ja", "ne@exa", "mple.c", "om", ""]
    assert (stream.guarded().action, stream.guarded().kinds) == ("flag", ("email",))


def test_an_answer_that_did_not_end_is_not_called_clean() -> None:
    stream = Guard(GuardPolicy()).stream_out()
    stream.push("The quiet pub")

    assert stream.guarded().state == "not_run"


@pytest.mark.parametrize(("action", "sent"), [("mask", "a b c d e f"), ("block", "")])
def test_an_answer_past_the_limit_is_marked_or_ended(action: str, sent: str) -> None:
    guard = Guard(GuardPolicy.from_text(f"personal.out={action}"), max_chars=3)
    stream = guard.stream_out()
    text = "".join(run(stream, "a b c d e f", [4, 7]))

    assert (text, stream.guarded().state) == (sent, "not_run")
    assert stream.guarded().action == ("block" if action == "block" else "flag")
