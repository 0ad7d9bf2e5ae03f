"""Texts for benchmarks/guards.py: disguises of blocked phrases, and texts without personal data."""

import csv
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

from stages._incidents import IncidentCounts, generate

PHRASES = ["zorblax", "quib dex", "make a frumple", "gralt the spindel", "übelwort"]
# Written down apart from serving/_guard/folding.py, which leaves the scripts of RARE out.
CYRILLIC = str.maketrans("aeopcxyi", "аеорсхуі")
RARE = str.maketrans("abedgilmkortuxz", "ꭺᏼεꓒɡꓲꓡꓟꓗⲟꓣꓔꓴꓫꓜ")
PHRASE_DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "upper_case": str.upper,
    "zero_width": lambda text: "\u200b".join(text),
    "full_width": lambda text: text.translate({c: c + 0xFEE0 for c in range(0x21, 0x7F)}),
    "dots_between_letters": lambda text: " ".join(".".join(word) for word in text.split()),
    "blanks_between_letters": lambda text: " ".join(text.replace(" ", "")),
    "line_break_between_words": lambda text: text.replace(" ", "\n"),
    "accents": lambda text: "".join(c + "\u0301" for c in text),
    "cyrillic_letters": lambda text: text.translate(CYRILLIC),
    "rarer_scripts": lambda text: text.translate(RARE),
    "leetspeak": lambda text: text.translate(str.maketrans("aeiost", "431057")),
    "letter_doubled": lambda text: text[:2] + text[1:],
    "line_break_in_word": lambda text: f"{text[:3]}-\n{text[3:]}",
    "joined_words": lambda text: text.replace(" ", ""),
    "inflected": lambda text: text + "s",
}


def incident_reports(seed: int, count: int = 400) -> list[Any]:
    """Generated incidents: prompt and references."""
    return list(generate(seed, IncidentCounts(0, 0, 0, count))["test"])


def clock(n: Callable[[int], int]) -> str:
    """A time of day."""
    return f"{n(24):02d}:{n(60):02d}"


def made_lines(rng: Random, count: int) -> Iterable[str]:
    """Identifiers, versions, times and amounts of operations, none of them personal."""
    for _ in range(count):
        n = rng.randrange
        yield rng.choice(
            [
                f"Rolled back to v{n(30)}.{n(100)}.{n(100)}.{n(100)} at {clock(n)} UTC",
                f"request {uuid.UUID(int=n(2**128), version=4)}",
                f"commit {n(16**40):040x} of build {n(2000, 2030)}.{n(1, 13):02d}.{n(2400)}",
                f"epoch {n(10**9, 2 * 10**9)}, in ns {n(10**18, 2 * 10**18)}",
                f"order {n(10**9, 10**10)} over £{n(1, 900)}.{n(100):02d}, INV-{n(10**6):06d}",
                f"account {n(10**11, 10**12)}, snowflake {n(10**18, 2 * 10**18)}",
                f"heap +{n(10**8, 10**10)} bytes, {n(100, 999)} {n(100, 999)} {n(100, 999)} rows",
                f"2024-{n(12) + 1:02d}-{n(28) + 1:02d}T{clock(n)}:{n(60):02d}+0{n(10)}:00",
                f"p99 {n(1, 9)},{n(100, 999)} ms, ports {n(1024, 65536)} and {n(1024, 65536)}",
                f"peer 10.{n(256)}.{n(256)}.{n(256)} and fe80::{n(65536):x}:{n(65536):x}",
                f"ticket INC{n(10**7):07d}, SKU {n(10**8):08d}, page {n(999)}-{n(999)}",
            ]
        )


def clean_texts(seed: int) -> dict[str, list[str]]:
    """Texts without personal data, by source."""
    reports = incident_reports(seed)
    texts = {
        "incidents": [text for row in reports for text in (row["prompt"], *row["references"])],
        "identifiers": list(made_lines(Random(seed), 4000)),
    }
    if folder := os.environ.get("E2E_DIR"):
        for name in ("devset.csv", "testset_w_refs.csv"):
            with (Path(folder) / name).open(encoding="utf-8", newline="") as stream:
                texts.setdefault("e2e", []).extend(row[1] for row in list(csv.reader(stream))[1:])
    return texts
