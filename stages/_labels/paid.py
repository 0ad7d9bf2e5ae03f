"""What an endpoint was paid for: every answer it gave, and every cost, in a file that only grows.

An answer is found again by what it is an answer to (server, model, template, decoding, prompt), so
neither a kill, nor a lost shard, nor other filters, more prompts or a longer timeout ask for it a
second time. Each line says what was spent since the line before, so that the lines add up to the
bill, failed attempts and interrupted runs included.

    {"asked_by": "<hash>", "prompt": "<hash>", "id": "...", "answers": [...], "paid": {...}}

No prompt stands in it. Lines of other settings stay: they were paid for, and may be asked again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from serving._endpoint_account import Usage
from serving.completion import Completion
from stages._labels.shards import must_take

PAID_NAME = "paid.jsonl"


class PaidAnswers:
    """The answers and the bill of one way of asking; safe to add to from several threads."""

    def __init__(self, folder: Path, asked_by: str) -> None:
        """Read what `folder` holds; a torn last line, or one that is damaged, is left out.

        Args:
            asked_by: hash of all that decides an answer but the prompt.
        """
        self.path, self._asked_by = folder / PAID_NAME, asked_by
        self.bill = Usage()
        """All that was ever paid for this way of asking, this run included."""
        self._answers: dict[str, list[Completion]] = {}
        self._counted, self._lock = Usage(), Lock()
        data = self.path.read_bytes() if self.path.is_file() else b""
        for line in data.split(b"\n"):
            self._take(line)
        self._torn = bool(data) and not data.endswith(b"\n")

    def __len__(self) -> int:
        """Prompts that are answered."""
        return len(self._answers)

    def get(self, example: Mapping[str, Any]) -> list[Completion] | None:
        """The answers to an example's prompt, None if it was never asked."""
        return self._answers.get(_prompt_key(example))

    def add(
        self,
        example: Mapping[str, Any],
        answers: Sequence[Completion],
        account: Callable[[], Usage],
    ) -> None:
        """Write down answers before anything else happens to them.

        Args:
            account: gives all that this run has spent so far.

        Raises:
            StillhouseError: the disk does not take them.
        """
        prompt = _prompt_key(example)
        found = [asdict(answer) for answer in answers]
        with self._lock:
            self._write({"prompt": prompt, "id": example["id"], "answers": found}, account())
            self._answers[prompt] = list(answers)

    def close_bill(self, account: Callable[[], Usage]) -> None:
        """Write down what was spent without an answer since the last one.

        Raises:
            StillhouseError: the disk does not take it.
        """
        with self._lock:
            spent = account()
            if spent != self._counted:
                self._write({}, spent)

    def bill_with(self, account: Callable[[], Usage]) -> Usage:
        """The bill, with what this run has spent but not written down yet."""
        with self._lock:
            return self.bill + (account() - self._counted)

    def _write(self, content: dict[str, Any], spent: Usage) -> None:
        paid = spent - self._counted
        row = {"asked_by": self._asked_by, **content, "paid": asdict(paid)}
        line = json.dumps(row).encode() + b"\n"  # ASCII: an answer may hold half a character
        with must_take(self.path.parent, "a paid answer"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as stream:
                start = b"\n" if self._torn else b""
                self._torn = True  # until the whole line is there
                _write_whole(stream.fileno(), start + line)
                self._torn = False
        self._counted, self.bill = spent, self.bill + paid

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if row["asked_by"] != self._asked_by:
                return
            paid = Usage(**row["paid"])
            answers = [Completion(**answer) for answer in row.get("answers", [])]
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        self.bill += paid
        if "prompt" in row:
            self._answers[row["prompt"]] = answers


def _write_whole(descriptor: int, data: bytes) -> None:
    """Append and wait until the disk has it; a full one takes a part first and fails then."""
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _prompt_key(example: Mapping[str, Any]) -> str:
    asked = json.dumps([example["prompt"], example.get("context")])
    return hashlib.sha256(asked.encode()).hexdigest()[:32]
