"""What can be wrong with a slot schema, told by slot and key.

Every mistake is found in one pass, because a person mends a file once, not once per run.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from serving._slots.paths import PatternError
from serving._slots.patterns import read_pattern
from serving._slots.quantities import read_amounts, read_units
from serving._slots.text import fold

NUMBER = "number"
"""Slot name of a finding about a number that no slot explains; no slot may be called so."""

_TOP_KEYS = ("name", "words", "slots", "negation")
_KEYS = {  # kind -> key -> (what it must be, whether it must be there)
    "name": {
        "pattern": ("text", False),
        "known": ("list", False),
        "values": ("ways", False),
        "hints": ("ways", False),
    },
    "choice": {
        "values": ("ways", True),
        "same": ("groups", False),
        "hints": ("ways", False),
    },
    "flag": {
        "affirm": ("text", True),
        "refuse": ("text", True),
        "say": ("list", True),
        "deny": ("list", False),
        "hints": ("ways", False),
    },
    "quantity": {
        "units": ("units", True),
        "tolerance": ("number", False),
        "values": ("ways", False),
    },
}
_UNIT_KEYS = {"dimension": ("text", True), "factor": ("number", True), "say": ("list", True)}
_EXPRESSIONS = ("pattern", "values", "hints", "say", "deny")


def schema_mistakes(data: Any) -> Iterator[str]:
    """Every mistake of a schema given as plain data; nothing when it is right."""
    if not isinstance(data, Mapping):
        yield f"expected a mapping with name and slots, found {_kind_of(data)}"
        return
    yield from _unknown_keys(data, _TOP_KEYS, "the schema")
    if not _is_text(data.get("name")):
        yield "key 'name': expected text"
    if not _is_texts(data.get("negation", [])):
        yield "key 'negation': expected a list of texts"
    word_mistakes = list(_word_mistakes(data.get("words", {})))
    yield from word_mistakes
    words = {} if word_mistakes else data.get("words", {})
    if not isinstance(data.get("slots"), Mapping) or not data["slots"]:
        yield "key 'slots': expected at least one slot"
    elif not word_mistakes:  # each use of a broken word would only repeat its mistake
        for slot, definition in data["slots"].items():
            yield from _slot_mistakes(slot, definition, words)


def _word_mistakes(words: Any) -> Iterator[str]:
    if not isinstance(words, Mapping):
        yield f"key 'words': expected a mapping of name to expression, found {_kind_of(words)}"
        return
    before: dict[str, str] = {}
    for name, expression in words.items():
        place = f"key 'words', word {name!r}"
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z_ ]*", name):
            yield f"{place}: expected a name of small letters, spaces and underscores"
        elif not isinstance(expression, str):
            yield f"{place}: expected an expression, found {_kind_of(expression)}"
        else:
            yield from _pattern_mistakes(expression, place, before, may_be_empty=True)
            before[name] = expression


def _slot_mistakes(slot: Any, definition: Any, words: Mapping[str, str]) -> Iterator[str]:
    where = f"slot {slot!r}"
    if not _is_text(slot) or slot == NUMBER or set(slot) & set("[],"):
        yield f"{where}: expected a name without brackets and commas, other than {NUMBER!r}"
    if not isinstance(definition, Mapping):
        yield f"{where}: expected a mapping, found {_kind_of(definition)}"
        return
    kind = definition.get("kind")
    if kind not in _KEYS:
        known, hint = ", ".join(_KEYS), _hint(kind, _KEYS)
        yield f"{where}, key 'kind': expected {known}, found {kind!r}{hint}"
        return
    yield from _unknown_keys(definition, ("kind", *_KEYS[kind]), where)
    mistakes = list(_entry_mistakes(definition, _KEYS[kind], where, words))
    yield from mistakes
    if not mistakes:
        yield from _value_mistakes(definition, where)


def _entry_mistakes(
    definition: Mapping[str, Any],
    keys: Mapping[str, tuple[str, bool]],
    where: str,
    words: Mapping[str, str],
) -> Iterator[str]:
    for key, (expected, needed) in keys.items():
        place = f"{where}, key {key!r}"
        if key not in definition:
            if needed:
                yield f"{place}: is missing"
            continue
        entry = definition[key]
        if expected == "units":
            yield from _units_mistakes(entry, place)
        elif not _FITS[expected](entry):
            quoted = " (write yes, no and numbers in quotes)" if _has_bare_word(entry) else ""
            yield f"{place}: expected {_WORDING[expected]}, found {_kind_of(entry)}{quoted}"
        elif key in _EXPRESSIONS:
            yield from _pattern_mistakes(entry, place, words, may_be_empty="factor" in keys)


def _units_mistakes(units: Any, place: str) -> Iterator[str]:
    if not isinstance(units, Mapping) or not units:
        yield f"{place}: expected at least one unit"
        return
    for unit, definition in units.items():
        where = f"{place}, unit {unit!r}"
        if not isinstance(definition, Mapping):
            yield f"{where}: expected dimension, factor and say, found {_kind_of(definition)}"
            continue
        yield from _unknown_keys(definition, _UNIT_KEYS, where)
        yield from _entry_mistakes(definition, _UNIT_KEYS, where, {})
        if _is_number(definition.get("factor")) and definition["factor"] <= 0:
            yield f"{where}, key 'factor': expected more than 0, found {definition['factor']}"


def _value_mistakes(definition: Mapping[str, Any], where: str) -> Iterator[str]:
    """What is wrong with a slot whose entries are right one by one."""
    values = definition.get("values", {})
    known = [*values, *definition.get("known", ())]
    known += [definition[key] for key in ("affirm", "refuse") if key in definition]
    named = [("hints", value) for value in definition.get("hints", ())]
    named += [("same", value) for group in definition.get("same", ()) for value in group]
    for key, value in named:
        if value not in known:
            yield f"{where}, key {key!r}: {value!r} is not among the values{_hint(value, known)}"
    if definition["kind"] == "quantity":
        units = read_units(list(definition["units"].values()))
        for value in values:
            if not read_amounts(fold(value).plain, units):
                yield f"{where}, key 'values': {value!r} is no number with one of the units"
    if definition["kind"] == "flag" and definition["affirm"] == definition["refuse"]:
        yield f"{where}: affirm and refuse are both {definition['affirm']!r}"


def _pattern_mistakes(
    entry: Any, place: str, words: Mapping[str, str], *, may_be_empty: bool
) -> Iterator[str]:
    for source in _expressions(entry):
        try:
            part = read_pattern(source, words)
            re.compile(part.source)
        except PatternError as error:
            yield f"{place}: {source!r} {error}"
        except re.error as error:
            yield f"{place}: {source!r} is no regular expression ({error})"
        else:
            if part.empty and not may_be_empty:
                yield f"{place}: {source!r} can match nothing at all"


def _expressions(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, Mapping):
        return [source for ways in entry.values() for source in ways]
    return list(entry)


def _unknown_keys(data: Mapping[Any, Any], known: Iterable[str], where: str) -> Iterator[str]:
    for key in data:
        if key not in known:
            yield f"{where}: unknown key {key!r}{_hint(key, known)}"


def _hint(word: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _is_text(entry: Any) -> bool:
    return isinstance(entry, str) and bool(entry.strip())


def _is_texts(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and all(isinstance(e, str) for e in entry)


def _is_ways(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(
        _is_text(value) and _is_texts(ways) for value, ways in entry.items()
    )


def _is_groups(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and all(_is_texts(group) for group in entry)


def _is_number(entry: Any) -> bool:
    return isinstance(entry, int | float) and not isinstance(entry, bool)


def _has_bare_word(entry: Any) -> bool:
    parts = [*entry, *entry.values()] if isinstance(entry, Mapping) else [entry]
    flat = [x for part in parts for x in (part if isinstance(part, list) else [part])]
    return any(isinstance(x, bool | int | float) for x in flat)


def _kind_of(entry: Any) -> str:
    return "nothing" if entry is None else f"{type(entry).__name__} {str(entry)[:40]!r}"


_FITS = {
    "text": _is_text, "list": _is_texts, "ways": _is_ways, "groups": _is_groups,
    "number": _is_number,
}  # fmt: skip
_WORDING = {
    "text": "text",
    "list": "a list of texts",
    "ways": "a mapping of value to a list of expressions",
    "groups": "a list of lists of values",
    "number": "a number",
}
