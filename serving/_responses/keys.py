"""Under which key an answer is kept: everything that may change it, and who asked.

Parts are written one after the other, each with its name and its length before it, so that no two
different requests have the same bytes, wherever their texts are cut.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
FORM = "stillhouse response 1"
"""Another form of keys, or another meaning of what is kept under them, gets another number."""


def response_key(
    *,
    models: str,
    template: str,
    decoding: Mapping[str, Any],
    tenant: str,
    prompt: str,
    context: str | None = None,
    slots: Mapping[str, str] | None = None,
    answers: int = 1,
) -> str:
    """A key for an answer: 64 hexadecimal digits.

    Args:
        models: Digest of the model, or of the route that chooses among several.
        template: The task prompt, or its digest.
        decoding: All settings, those of the contract included; what else changes the answer goes
            here too (policies, versions). Values are JSON.
        tenant: Who asked: answers are never shared between tenants.
        prompt: As the caller sent it.
        context: Text beside the prompt; none and an empty one differ.
        slots: The prompt's record.
        answers: Different answers that are asked for [count].

    Raises:
        TypeError, ValueError: a setting that JSON cannot hold: it would have no one form.
    """
    digest = hashlib.sha256(FORM.encode())
    for name, part in (
        ("models", models),
        ("template", template),
        ("decoding", decoding),
        ("tenant", tenant),
        ("prompt", prompt),
        ("context", context),
        ("slots", slots),
        ("answers", answers),
    ):
        text = _canonical(part)
        digest.update(f"\n{name} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()


def cacheable(decoding: Mapping[str, Any]) -> bool:
    """Whether the same request may get the same answer again.

    A sample without a seed of its own is asked for to be different each time. So ask before a seed
    is drawn for the request.
    """
    return decoding.get("method") != "sample" or decoding.get("seed") is not None


def _canonical(part: Any) -> bytes:
    """A text as it is, other parts as JSON in one form; which of these it is stands before it.

    "surrogatepass": a request may hold halves of characters, which UTF-8 else has no form for.
    """
    if part is None:
        return b"none"
    if isinstance(part, str):
        return b"text " + part.encode("utf-8", "surrogatepass")
    return b"json " + _JSON.encode(_plain(part)).encode("utf-8", "surrogatepass")


def _plain(part: Any) -> Any:
    """The same as dicts and lists, whose names are texts: JSON would make 1 and "1" one name."""
    if isinstance(part, str | int | float):
        return part
    if isinstance(part, dict | Mapping):  # a dict is known faster
        if wrong := [name for name in part if not isinstance(name, str)]:
            found = type(wrong[0]).__name__
            raise TypeError(f"names of settings are texts, found {found}. Make each a text.")
        return {name: _plain(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_plain(value) for value in part]
    return part
