"""Raw data in one place: what the stages import; each reader has a file of its own."""

from stages._sources.csv import read_csv
from stages._sources.fetch import fetch
from stages._sources.hub import read_hub
from stages._sources.jsonl import read_jsonl
from stages._sources.rows import (
    REASONS,
    SPLITS,
    Counts,
    GroupReason,
    Limits,
    Reason,
    Rejection,
    Row,
    SlotParser,
)

__all__ = [
    "REASONS",
    "SPLITS",
    "Counts",
    "GroupReason",
    "Limits",
    "Reason",
    "Rejection",
    "Row",
    "SlotParser",
    "fetch",
    "read_csv",
    "read_hub",
    "read_jsonl",
]
