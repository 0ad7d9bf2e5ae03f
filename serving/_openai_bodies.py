"""From headers and bytes to one JSON object, or to an error that says where it is wrong.

`json.loads` lets through what would surprise later: NaN, a key twice, numbers that become
infinite, nesting that ends in a RecursionError. Each is refused here by name. Positions are
named, the body itself is never repeated: it holds somebody's text.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from serving._openai_errors import RequestError

DEEPEST = 32
"""Levels of nesting in a body; the protocol's own bodies have five."""
LONGEST_NUMBER = 64
"""Digits of a number; far more cost quadratic time to read."""
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_RANGE = re.compile(rf"({_WORD})/({_WORD})((?:\s*;\s*{_WORD}=(?:{_WORD}|\"[^\"]*\"))*)")
_QUALITY = re.compile(r";\s*q=([^;\s]*)", re.IGNORECASE)
_QUALITY_VALUE = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def read_object(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The JSON object that `body` holds.

    Raises:
        RequestError: 415 for another media type, 400 for anything that is not one JSON object.
    """
    check_content_type(headers)
    text = _decode(body)
    data = _parse(text)
    if not isinstance(data, dict):
        raise _malformed(f"the body must be a JSON object, found {_kind(data)}", "Send {…}.")
    if _depth(data) > DEEPEST:
        raise _too_deep()
    if "\\ud" in text.lower():  # the escape of half a character, which no text may hold
        _check_text(data)
    return data


def check_content_type(headers: Mapping[str, str]) -> None:
    """Refuse all but plain UTF-8 JSON.

    A missing type is refused as well: it is how a foreign web page could post to this service from
    a visitor's browser without being asked first.

    Raises:
        RequestError: 415.
    """
    kind, _, rest = headers.get("content-type", "").partition(";")
    charset = re.search(r'charset\s*=\s*"?([^\s;"]+)', rest, re.IGNORECASE)
    coding = headers.get("content-encoding", "identity").strip().lower()
    if kind.strip().lower() != "application/json":
        raise _unsupported("the content type must be application/json")
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        raise _unsupported("the charset must be utf-8")
    if coding not in ("", "identity"):
        raise _unsupported("the body must not be compressed (content-encoding identity)")


def check_accept(accept: str | None, stream: bool) -> None:
    """Refuse a caller who does not take what would come.

    A stream is sent to those who accept application/json too: so asks the official client.

    Raises:
        RequestError: 400 for a malformed header, 406 for one that accepts nothing there is.
    """
    if accept is None or not accept.strip():
        return
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    offered = ["text/event-stream", "application/json"] if stream else ["application/json"]
    if not any(_accepts(ranges, kind) for kind in offered):
        hint = "" if stream else " Events need stream true."
        raise RequestError(
            f"the Accept header takes none of {', '.join(offered)}. Name one, or */*.{hint}",
            "not_acceptable",
            406,
        )


def _media_range(part: str) -> tuple[str, str, float]:
    found = _MEDIA_RANGE.fullmatch(part.strip())
    quality = _QUALITY.search(found[3]) if found else None
    wrong = found is None or (found[1] == "*" and found[2] != "*")
    if wrong or (quality and not _QUALITY_VALUE.fullmatch(quality[1])):
        raise RequestError(
            "the Accept header is malformed: expected media ranges such as text/event-stream or "
            "*/*;q=0.5, separated by commas. Correct it or leave it out.",
            "invalid_accept",
            400,
        )
    assert found
    return found[1].lower(), found[2].lower(), float(quality[1]) if quality else 1.0


def _accepts(ranges: list[tuple[str, str, float]], kind: str) -> bool:
    """Whether the most specific range that fits `kind` has a quality above 0."""
    major, minor = kind.split("/")
    for wanted in ((major, minor), (major, "*"), ("*", "*")):
        if fitting := [quality for *names, quality in ranges if tuple(names) == wanted]:
            return max(fitting) > 0
    return False


def _decode(body: bytes) -> str:
    if not body.strip():
        raise _malformed("the body is empty", "Send a JSON object.")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(
            f"the body is not UTF-8 (byte {error.start})", "Encode it as UTF-8."
        ) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_twins,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _malformed(f"the body is not JSON ({where})", "Correct it there.") from None
    except RecursionError:
        raise _too_deep() from None


def _check_text(data: Any) -> None:
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _malformed(
            "a \\u escape is half of a surrogate pair", "Escape both halves, or send UTF-8."
        ) from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        seen: set[str] = set()
        for twin, _ in pairs:
            if twin in seen:
                break
            seen.add(twin)
        raise _malformed(f"the key {printable(twin)} is there twice", "Leave one out.")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise _malformed(f"{name} is no JSON number", "Leave the field out, or send a finite number.")


def _finite(digits: str) -> float:
    number = float(digits) if len(digits) <= LONGEST_NUMBER else math.inf
    if not math.isfinite(number):
        raise _malformed("a number is too large or too long", "Send it shorter.")
    return number


def _short(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise _malformed(f"a number has {len(digits):,} digits", "Send it shorter.")
    return int(digits)


def _depth(data: object) -> int:
    """Levels of objects and lists, counted without recursion."""
    depth, level = 0, [data]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def printable(name: str, longest: int = 40) -> str:
    """A field's name for a message: quoted, in ASCII, cut."""
    return ascii(name if len(name) <= longest else name[:longest] + "…")


def _kind(data: object) -> str:
    match data:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a text"
        case list():
            return "a list"
    return "a number"


def _too_deep() -> RequestError:
    return _malformed(f"the body is nested deeper than {DEEPEST} levels", "Flatten it.")


def _malformed(found: str, step: str) -> RequestError:
    return RequestError(f"{found}. {step}", "invalid_json", 400)


def _unsupported(expected: str) -> RequestError:
    return RequestError(f"{expected}. Correct the header.", "unsupported_media_type", 415)
