"""Golden parity: what a served Bento says is what its model folder says, token by token.

The same prompts are answered by the predictor, loaded here from the folder that was measured, and
by the served process, one at a time. What many clients ask at once is compared apart: the sums of a
batch are rounded otherwise and may flip a tie. Prompts are of the calibration split, never of test.
"""

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from serving.completion import Completion, Request
from serving.errors import StillhouseError
from serving.predictor import load

SHOWN = 5  # ids in a message


@dataclass(frozen=True)
class Golden:
    """A request whose answer is known before it is asked."""

    id: str
    request: Request


class Said(NamedTuple):
    """What is compared of an answer."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Parity:
    """How many answers are identical, and whose are not."""

    requests: int
    different: tuple[str, ...]
    """Ids of the requests with other answers."""

    def to_dict(self) -> dict[str, int]:
        """The form in which release.json carries it."""
        return {"requests": self.requests, "identical": self.requests - len(self.different)}


def draw(examples: Sequence[dict[str, Any]], count: int, seed: int) -> list[Golden]:
    """Up to `count` of the prepared examples, by the seed.

    Raises:
        StillhouseError: there are none.
    """
    if not examples:
        raise StillhouseError(
            'the calibration split has no prompts to ask. Run "dvc repro prepare".'
        )
    drawn = random.Random(seed).sample(list(examples), min(count, len(examples)))  # noqa: S311
    return [Golden(e["id"], Request(e["prompt"], e.get("slots"), e.get("context"))) for e in drawn]


def predict(folder: Path, golden: Sequence[Golden], device: str | None) -> list[Said]:
    """The answers of the model in `folder`, each asked alone."""
    predictor = load(folder, device=device)
    return [_of_completion(predictor.answer([one.request])[0]) for one in golden]


def ask_singly(
    url: str, golden: Sequence[Golden], limit_s: float, headers: Mapping[str, str] | None = None
) -> list[Said]:
    """The served answers, each asked after the one before.

    Args:
        url: of the route that generates.
        limit_s: longest time for one answer [s].
        headers: such as a key's, for a service that asks for one.

    Raises:
        StillhouseError: a request was refused or not answered; its id is named, never its text.
    """
    with _client(limit_s, headers) as client:
        return [_ask(client, url, one) for one in golden]


def ask_together(url: str, golden: Sequence[Golden], clients: int, limit_s: float) -> list[Said]:
    """The served answers in the order of `golden`, asked by `clients` at once.

    Raises:
        StillhouseError: as `ask_singly`.
    """
    with _client(limit_s) as client, ThreadPoolExecutor(clients) as threads:
        return list(threads.map(lambda one: _ask(client, url, one), golden))


def compare(golden: Sequence[Golden], expected: Sequence[Said], found: Sequence[Said]) -> Parity:
    """Which of the answers found are not those expected."""
    triples = zip(golden, expected, found, strict=True)
    return Parity(len(golden), tuple(one.id for one, said, other in triples if said != other))


def check(parity: Parity, of: str) -> None:
    """Refuse a single difference.

    Raises:
        StillhouseError: names the requests by their ids.
    """
    if parity.different:
        more = len(parity.different) - SHOWN
        named = ", ".join(parity.different[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise StillhouseError(
            f"{of}: {len(parity.different)} of {parity.requests} served answers are not those of "
            f"the model folder, requests {named}. What is served is not what was measured: ask "
            f"these prompts both ways, and mend the service."
        )


def _client(limit_s: float, headers: Mapping[str, str] | None = None) -> httpx.Client:
    # no proxy stands before loopback
    return httpx.Client(trust_env=False, timeout=limit_s, headers=headers)


def _ask(client: httpx.Client, url: str, one: Golden) -> Said:
    body = {name: value for name, value in _fields(one.request).items() if value is not None}
    try:
        response = client.post(url, json=body)
    except httpx.TransportError as error:
        raise StillhouseError(
            f"request {one.id} was not answered ({type(error).__name__}). "
            f"See whether the service can bear package.batched_clients."
        ) from None
    if response.status_code != httpx.codes.OK:
        raise StillhouseError(
            f"request {one.id} was refused with status {response.status_code}. "
            f"The service must take what the model was measured on."
        )
    return _of_reply(one, response.json())


def _fields(request: Request) -> dict[str, Any]:
    slots = dict(request.slots) if request.slots is not None else None
    return {"prompt": request.prompt, "slots": slots, "context": request.context}


def _of_completion(made: Completion) -> Said:
    return Said(made.text, made.prompt_tokens, made.completion_tokens, made.finish_reason)


def _of_reply(one: Golden, reply: Any) -> Said:
    """What /generate replies (serving/_entry.py): the choice's fields, and the prompt's length."""
    try:
        choice = reply["choices"][0]
        tokens = choice["completion_tokens"]
        return Said(choice["text"], reply["prompt_tokens"], tokens, choice["finish_reason"])
    except (KeyError, IndexError, TypeError):
        raise StillhouseError(
            f"the reply to request {one.id} is not of the expected form: choices, each with text, "
            f"completion_tokens and finish_reason, and prompt_tokens. Mend the service."
        ) from None
