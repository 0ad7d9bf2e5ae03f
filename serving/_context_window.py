"""What becomes of a request that is longer than the model's window: a declared policy, never luck.

refuse             a 422 that says how many tokens there are and how many may be
drop_oldest_turns  whole turns go, the oldest first, until the rest fits; else as `refuse`
cut_middle         characters go out of the middle of the context, and when all of it is gone, of
                   the prompt; the beginning and the end stay, and the template always

Tokens are counted by encoding what will be sent (serving/_prompts.py). Lengths do not add up: where
two pieces meet, tokens merge or split. So a cut is sought by halving, and every cut that is taken
was encoded and fits. Cuts are between characters, so what is left is always text.

A request that holds a record (`service[checkout-api], value[1.8 s]`) is never cut, whatever the
policy. Prose without its middle is still prose, and a reader sees that something is missing. A
record without its middle reads as a whole record: half of one value is joined to half of another's,
the model states it as a fact, and a check of the answer against what is left finds no fault. Whole
turns may go, for that takes no fact apart.

Examples that a model is shown ({shots}) are not counted: its engine leaves out those that do not
fit (serving/_shots.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from serving._chat import Asked
from serving._items import ServiceError
from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.slots import is_record

Policy = Literal["refuse", "drop_oldest_turns", "cut_middle"]


@dataclass(frozen=True)
class Window:
    """How long a prompt may be, and what happens to a longer one."""

    policy: Policy
    max_prompt_tokens: int
    """The contract's limit."""
    positions: int | None = None
    """Longest prompt and answer together [tokens]; None where the model has no such limit."""

    def room(self, answer_tokens: int) -> int:
        """Longest prompt beside an answer of up to `answer_tokens` [tokens].

        Raises:
            ServiceError: invalid_request: such an answer leaves room for no prompt.
        """
        if self.positions is None:
            return self.max_prompt_tokens
        if answer_tokens >= self.positions:
            raise ServiceError(
                "invalid_request",
                f"an answer of {answer_tokens} tokens leaves no room for a prompt: both together "
                f"may have {self.positions}. Ask for a shorter answer.",
                parameter="max_tokens",
            )
        return min(self.max_prompt_tokens, self.positions - answer_tokens)


@dataclass(frozen=True)
class Dropped:
    """What was taken away to make a request fit, for `usage`."""

    turns: int = 0
    """Turns of which nothing is left [count]."""
    tokens: int = 0
    """By how much the encoded prompt is shorter than what was sent."""


@dataclass(frozen=True)
class Fitted:
    """A request that fits."""

    request: Request
    prompt_tokens: int
    """Its encoded prompt, the template included."""
    dropped: Dropped = Dropped()


def fit_window(asked: Asked, encoder: PromptEncoder, window: Window, answer_tokens: int) -> Fitted:
    """The request of `asked`, made to fit by the window's policy.

    Args:
        answer_tokens: room that the answer needs.

    Raises:
        ServiceError: prompt_too_long, with the numbers; invalid_request where `answer_tokens`
            leaves no room at all, or the prompt has no tokens.
    """
    limit = window.room(answer_tokens)
    fitting = _Fitting(asked, encoder, limit, _count(encoder, asked.to_request()))
    if fitting.tokens <= limit:
        return Fitted(asked.to_request(), fitting.tokens)
    match window.policy:
        case "drop_oldest_turns":
            return _drop_turns(fitting)
        case "cut_middle":
            return _cut_middle(fitting)
        case "refuse":
            raise fitting.too_long()


@dataclass(frozen=True)
class _Fitting:
    """A request that is too long, and what it takes to shorten it."""

    asked: Asked
    encoder: PromptEncoder
    limit: int
    tokens: int

    def fits(self, request: Request) -> bool:
        return 0 < len(self.encoder.encode(request)) <= self.limit

    def fitted(self, request: Request, turns: int) -> Fitted:
        tokens = _count(self.encoder, request)
        return Fitted(request, tokens, Dropped(turns, self.tokens - tokens))

    def too_long(self, why: str = "") -> ServiceError:
        return ServiceError(
            "prompt_too_long",
            f"the prompt with all that goes with it has {self.tokens} tokens, and {self.limit} fit "
            f"beside the answer{why}. Shorten it by {self.tokens - self.limit} tokens.",
            parameter=self.asked.field,
        )


def _count(encoder: PromptEncoder, request: Request) -> int:
    if not (tokens := len(encoder.encode(request))):
        raise ServiceError("invalid_request", "the prompt has no tokens. Send some text.")
    return tokens


def _drop_turns(fitting: _Fitting) -> Fitted:
    asked = fitting.asked

    def rest(count: int) -> Request:
        return replace(asked, turns=asked.turns[count:]).to_request()

    every = len(asked.turns)
    if not every or not fitting.fits(rest(every)):
        raise fitting.too_long(f", even without its {every} earlier turns" if every else "")
    fewest = _search(lambda count: fitting.fits(rest(count)), good=every, bad=0)
    return fitting.fitted(rest(fewest), fewest)


def _cut_middle(fitting: _Fitting) -> Fitted:
    asked = fitting.asked
    if _holds_record(asked):
        raise fitting.too_long(", and a record is never cut")
    whole, context = asked.to_request(), asked.context or ""
    without = replace(whole, context=None)
    if context and fitting.fits(without):
        return _cut(fitting, context, 0, lambda left: replace(whole, context=left or None))
    return _cut(fitting, asked.prompt, 1, lambda left: replace(without, prompt=left))


def _cut(fitting: _Fitting, text: str, least: int, request: Callable[[str], Request]) -> Fitted:
    """Keep as much of `text` as fits, at least `least` characters."""

    def rest(count: int) -> Request:
        return request(_ends(text, count))

    if len(text) <= least or not fitting.fits(rest(least)):
        raise fitting.too_long(", fewer than the template alone takes")
    most = _search(lambda count: fitting.fits(rest(count)), good=least, bad=len(text))
    made = rest(most)
    turns = _turns_gone(fitting.asked, most if made.context else 0)
    return fitting.fitted(made, turns)


def _search(fits: Callable[[int], bool], good: int, bad: int) -> int:
    """A number that fits beside one that does not, between `good`, which fits, and `bad`."""
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def _ends(text: str, count: int) -> str:
    """The first and the last characters of `text`, `count` together."""
    tail = count // 2
    return text[: count - tail] + (text[-tail:] if tail else "")


def _turns_gone(asked: Asked, count: int) -> int:
    """Turns of which no character is among the `count` that are kept of the context."""
    length, tail = len(asked.context or ""), count // 2
    end, gone = length, 0
    for turn in reversed(asked.turns):  # they stand at the context's end
        start = end - len(turn.text)
        gone += start >= count - tail and end <= length - tail
        end = start - 1  # a newline between them
    return gone


def _holds_record(asked: Asked) -> bool:
    texts = [asked.prompt, *asked.before]
    texts += [message.text for turn in asked.turns for message in turn.messages]
    lines = (line for text in texts for line in (text, *text.splitlines()))
    return bool(asked.slots) or any(is_record(line) for line in lines)
