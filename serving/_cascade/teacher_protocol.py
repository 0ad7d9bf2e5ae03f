"""What is sent to a teacher that is another Stillhouse service, and what its answer says.

It is asked by /v1/completions. Of its answer only what is needed is read, so that a newer service
may say more.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from serving._items import Answer, Choice, Item, Refusal, ServiceError

SAID = frozenset({"max_new_tokens", "method", "beams", "answers", "temperature", "top_p", "seed"})
"""Decoding settings that the protocol can say in some way."""
FINGERPRINT = 12
"""Characters of a model's digest in `system_fingerprint` (serving/_entry.py)."""
CODES: Mapping[str, Refusal] = {
    "context_length_exceeded": "prompt_too_long",
    "request_too_large": "body_too_large",
}


class _TextChoice(BaseModel):
    text: str
    finish_reason: Literal["stop", "length"]
    confidence: float | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Completion(BaseModel):
    system_fingerprint: str | None = None
    choices: list[_TextChoice] = Field(min_length=1)
    usage: _Usage


class _Detail(BaseModel):
    code: str | None = None


class _Error(BaseModel):
    error: _Detail


class AnotherModelError(Exception):
    """The answer is by another model than the one whose threshold is known, or does not say."""


def body_of(item: Item, model: str, longest: int | None) -> dict[str, Any]:
    """An item as a body of /v1/completions.

    Args:
        model: its id on that service.
        longest: answer that it gives [tokens]; one that may be longer is asked for as this.

    Raises:
        ServiceError: invalid_request, for decoding that the protocol has no words for.
    """
    body: dict[str, Any] = {"model": model, "prompt": item.prompt, **_method(item)}
    wanted = item.decoding.get("max_new_tokens")
    lengths = [length for length in (wanted, longest) if length is not None]
    optional = {
        "context": item.context,
        "slots": item.slots,
        "max_tokens": min(lengths) if wanted is not None else None,
        "n": item.answers if item.answers > 1 else None,
        "seed": _signed(item.decoding.get("seed")),
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def read_answer(data: bytes, item: Item, model_sha256: str, seconds: float) -> Answer:
    """An answer of 200 as ours.

    Its computing time is not said: `seconds`, in which it was asked and answered, stand for it.

    Raises:
        AnotherModelError: it is not of the model with this digest.
        ValueError: it is no answer.
    """
    try:
        found = _Completion.model_validate_json(data)
    except ValidationError:
        raise ValueError("no completion") from None  # its message quotes what was found
    if found.system_fingerprint != model_sha256[:FINGERPRINT]:
        raise AnotherModelError
    if len(found.choices) > item.answers:
        raise ValueError("more answers than were asked for")
    share, rest = divmod(found.usage.completion_tokens, len(found.choices))
    choices = [
        Choice(completion_tokens=share + (rest if number == 0 else 0), **choice.model_dump())
        for number, choice in enumerate(found.choices)
    ]  # of several answers only the sum of tokens is told
    prompt_tokens = found.usage.prompt_tokens
    return Answer(
        id=item.id,
        choices=choices,
        prompt_tokens=prompt_tokens,
        compute_s=seconds,
        batch_rows=1,
    )


def error_code(data: bytes) -> str | None:
    """The protocol's code of an error, where there is one; never its message."""
    try:
        return _Error.model_validate_json(data).error.code
    except ValidationError:
        return None


def _method(item: Item) -> dict[str, Any]:
    """Fields that ask for the item's method of decoding; none for the model's own."""
    how = item.decoding
    alone, beams = how.get("answers", 1) == 1, how.get("beams", 1)
    if not how.keys() <= SAID or not alone:
        raise _unsaid()
    match how.get("method"):
        case None if item.answers == 1 and beams == 1:
            return {}
        case "greedy" if item.answers == 1 and beams == 1:
            return {"temperature": 0}
        case "beam" if beams == item.answers > 1:
            return {}
        case "sample" if "temperature" in how or how.get("top_p", 1) < 1:
            return {name: how[name] for name in ("temperature", "top_p") if name in how}
    raise _unsaid()


def _signed(seed: int | None) -> int | None:
    """The protocol's seeds have a sign; the service takes them modulo 2**64."""
    return seed - 2**64 if seed is not None and seed >= 2**63 else seed


def _unsaid() -> ServiceError:
    return ServiceError("invalid_request", "the teacher cannot be asked for such decoding")
