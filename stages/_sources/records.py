"""Make rows of one record: plain or chat, its texts checked, its faults named.

Chat `messages` (role and content, both text; roles system, developer, user, assistant): the last
assistant message is the reference, the user message right before it the prompt, and the turns
before that become the context, each as "role: content", joined by an empty line.
"""

import re
from typing import Any

from serving.errors import StillhouseError
from stages._sources.rows import (
    SHOWN,
    SPLITS,
    Counts,
    Limits,
    Place,
    Reason,
    RecordError,
    Rejection,
    Row,
    SlotParser,
    rejection,
    shown,
)

_KEYS = frozenset(
    {
        *("prompt", "references", "reference", "response", "messages"),
        *("slots", "context", "meta", "split"),
    }
)
_ROLES = frozenset(("system", "developer", "user", "assistant"))
_MAX_WARNINGS = 100  # different ones; a file of random keys must not fill the memory
_VISIBLE = re.compile("[^\\s\u00ad\u200b-\u200f\u2060\ufeff]")
# C0 and C1 controls but tab, line feed, carriage return and NEL; and halves of surrogate pairs.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


def _text(value: str, name: str, empty: Reason, limits: Limits) -> str:
    """The text without white space around it; refuses what no model should be trained on."""
    text = value.strip()
    if text and len(text) <= limits.max_chars and text.isprintable():
        return text  # the usual case: nothing invisible in it, so nothing to look for
    if _VISIBLE.search(text) is None:
        raise RecordError(empty, f"{name} is empty")
    if len(text) > limits.max_chars:
        raise RecordError(
            "text_too_long",
            f"{name} has {len(text):,} characters, the limit is {limits.max_chars:,}: "
            + shown(text),
        )
    if found := _UNWANTED.search(text):
        code = ord(found[0])
        reason: Reason = "lone_surrogate" if code >= 0xD800 else "control_character"
        raise RecordError(
            reason, f"{name} has U+{code:04X} at character {found.start() + 1}: {shown(text)}"
        )
    return text


def _warn(counts: Counts, warning: str) -> None:
    if warning not in counts.warnings and len(counts.warnings) >= _MAX_WARNINGS:
        warning = "more kinds of warnings"
    counts.warnings[warning] += 1


def _one_of(record: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    present = [key for key in keys if key in record]
    if len(present) > 1:
        raise RecordError("ambiguous_keys", f"has both {present[0]} and {present[1]}")
    return present[0] if present else None


def _plain(record: dict[str, Any], limits: Limits) -> tuple[str, list[object], str | None]:
    """Prompt, unchecked references and context of a record without chat messages."""
    if "prompt" not in record:
        raise RecordError("missing_prompt", f"has no prompt, only {shown(sorted(record))}")
    if not isinstance(record["prompt"], str):
        raise RecordError("prompt_not_text", f"prompt is {shown(record['prompt'])}")
    prompt = _text(record["prompt"], "prompt", "empty_prompt", limits)
    key = _one_of(record, ("references", "reference", "response"))
    if key is None:
        raise RecordError("missing_reference", "has no references, reference or response")
    answers = record[key] if key == "references" else [record[key]]
    if not isinstance(answers, list):
        raise RecordError("bad_references", f"references is no list: {shown(answers)}")
    if not answers:
        raise RecordError("missing_reference", "references is an empty list")
    context = record.get("context")
    if context is not None and not isinstance(context, str):
        raise RecordError("bad_context", f"context is {shown(context)}")
    if not context or _VISIBLE.search(context) is None:
        return prompt, answers, None
    return prompt, answers, _text(context, "context", "bad_context", limits)


def _turn(message: object, position: int, counts: Counts) -> tuple[str, str]:
    name = f"messages[{position}]"
    if not isinstance(message, dict):
        raise RecordError("bad_messages", f"{name} is no object: {shown(message)}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise RecordError("bad_messages", f"{name}.role is {shown(role)}")
    if not isinstance(content, str):
        raise RecordError("bad_messages", f"{name}.content is no text: {shown(content)}")
    for key in message.keys() - {"role", "content"}:
        _warn(counts, f"unknown key messages[].{shown(key)[1:-1]}")
    return role, content


def _chat(
    record: dict[str, Any], limits: Limits, counts: Counts
) -> tuple[str, list[object], str | None]:
    """Prompt, the last answer and earlier turns of a chat."""
    for key in ("prompt", "references", "reference", "response", "context"):
        _one_of(record, ("messages", key))
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        raise RecordError("bad_messages", f"messages is no list of turns: {shown(messages)}")
    turns = [_turn(message, position, counts) for position, message in enumerate(messages)]
    answers = [position for position, (role, _) in enumerate(turns) if role == "assistant"]
    if not answers:
        raise RecordError("bad_messages", "messages has no assistant turn")
    last = answers[-1]
    if last == 0 or turns[last - 1][0] != "user":
        raise RecordError("bad_messages", f"messages[{last}] answers no user turn right before it")
    if last + 1 < len(turns):
        _warn(counts, "turns after the last answer (dropped)")
    prompt = _text(turns[last - 1][1], f"messages[{last - 1}].content", "empty_prompt", limits)
    earlier = [f"{role}: {content.strip()}" for role, content in turns[: last - 1]]
    if not earlier:
        return prompt, [turns[last][1]], None
    context = _text("\n\n".join(earlier), "the earlier turns", "bad_messages", limits)
    return prompt, [turns[last][1]], context


def _slots(value: object, limits: Limits) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RecordError("bad_slots", f"slots is no object: {shown(value)}")
    slots: dict[str, str] = {}
    for name, said in value.items():
        if not isinstance(said, str):
            raise RecordError("bad_slots", f"slots[{shown(name)}] is no text: {shown(said)}")
        key = _text(name, "a slot's name", "bad_slots", limits)
        if key in slots:
            raise RecordError("duplicate_key", f"slots has {shown(key)} twice")
        slots[key] = _text(said, "a slot's value", "bad_slots", limits)
    return slots or None


def parsed_slots(prompt: object, parse: SlotParser | None) -> dict[str, str] | None:
    """What `parse` makes of a prompt; nothing where the prompt will be rejected anyway."""
    if parse is None or not isinstance(prompt, str) or not prompt.strip():
        return None
    try:
        return parse(prompt.strip())
    except StillhouseError as error:
        raise RecordError("bad_slots", str(error)[:SHOWN]) from None


def _split(value: object, given: str | None) -> str | None:
    if value is None:
        return given
    if value not in SPLITS:
        raise RecordError("bad_split", f"split is {shown(value)}, not one of {', '.join(SPLITS)}")
    if given not in (None, value):
        raise RecordError("bad_split", f"split is {value!r}, but the file was given as {given!r}")
    return str(value)


def _references(
    answers: list[object], limits: Limits
) -> tuple[list[str], list[tuple[int, RecordError]]]:
    """The usable references, and of the others the index and the fault."""
    good: list[str] = []
    bad: list[tuple[int, RecordError]] = []
    for index, answer in enumerate(answers):
        name = "reference" if len(answers) == 1 else f"references[{index}]"
        try:
            if not isinstance(answer, str):
                raise RecordError("reference_not_text", f"{name} is no text: {shown(answer)}")
            good.append(_text(answer, name, "empty_reference", limits))
        except RecordError as error:
            bad.append((index, error))
    return good, bad


def record_items(
    record: dict[str, Any], place: Place, limits: Limits, counts: Counts
) -> list[Row | Rejection]:
    """Rows of one record, and a rejection for each of its unusable references."""
    for key in record.keys() - _KEYS:
        _warn(counts, f"unknown key {shown(key)[1:-1]}")
    record = {key: value for key, value in record.items() if value is not None}
    if "messages" in record:
        prompt, answers, context = _chat(record, limits, counts)
    else:
        prompt, answers, context = _plain(record, limits)
    slots = _slots(record.get("slots"), limits)
    split = _split(record.get("split"), place.split)
    meta = record.get("meta")
    if meta is not None and not isinstance(meta, dict):
        raise RecordError("bad_meta", f"meta is no object: {shown(meta)}")
    good, bad = _references(answers, limits)
    if not good:
        raise bad[0][1]
    if prompt in good:
        _warn(counts, "a reference repeats its prompt")
    file, line, _ = place
    return [
        *(Row(file, line, split, prompt, text, slots, context, meta) for text in good),
        *(rejection(place, error, index) for index, error in bad),
    ]
