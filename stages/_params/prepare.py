"""Section `prepare`: where the data comes from and how it is cut."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages._params.base import Section, Share


class SourceFile(Section):
    """One raw file."""

    path: str
    """Path from the project root, absolute, with $VARIABLES, or a file:// or https:// URL."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Hexadecimal SHA-256 of the file: demanded for URLs, and what lets DVC see a change of a file
    outside data/raw."""


class SourceFiles(Section):
    """The raw files of a csv or jsonl source; splits without a file are cut from train."""

    train: SourceFile
    """Training pairs."""
    validation: SourceFile | None = None
    """Development set, for tuning and early stopping."""
    calibration: SourceFile | None = None
    """Set for thresholds; cut from train when absent: a given development set stays whole."""
    test: SourceFile | None = None
    """Test set, read by evaluate only."""


class Columns(Section):
    """Column names of a csv or hub source."""

    prompt: str = "prompt"
    """Column with the prompt."""
    response: str = "response"
    """Column with one reference answer; rows that share a prompt become several references."""


class Hub(Section):
    """A data set on the Hugging Face hub, or a local folder in its format."""

    name: str
    """Data set id (owner/name) or a path to a local folder."""
    revision: str | None = None
    """Commit of the data set; demanded unless `name` is a local folder."""
    splits: dict[Literal["train", "validation", "calibration", "test"], str] = Field(
        {"train": "train"}
    )
    """Our splits by the names they have there; those not named are cut from train."""


class Incidents(Section):
    """Size of the built-in data."""

    train_prompts: int = Field(6000, ge=10)
    """Training prompts [count]."""
    train_references: int = Field(2, ge=1)
    """References per training prompt [count]."""
    validation_prompts: int = Field(300, ge=10)
    """Validation prompts [count]."""
    calibration_prompts: int = Field(500, ge=10)
    """Calibration prompts [count]."""
    test_prompts: int = Field(640, ge=10)
    """Test prompts [count]; evidence asks for at least 600."""
    held_out_references: int = Field(5, ge=1)
    """References per held-out prompt [count]; evidence asks for at least 4."""


class SplitShares(Section):
    """Shares of the prompt groups that become a held-out split when the source gives none."""

    validation: Share = 0.05
    """Share of the prompts for validation."""
    calibration: Share = 0.05
    """Share of the prompts for calibration."""
    test: Share = 0.1
    """Share of the prompts for test."""

    @model_validator(mode="after")
    def _leave_training_data(self) -> "SplitShares":
        total = self.validation + self.calibration + self.test
        if total >= 1.0:
            raise ValueError(f"the held-out shares sum to {total:g}; nothing is left to train on")
        return self


WindowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Folder of a frozen window, below data/windows."""


class WindowUse(Section):
    """What a frozen window adds to the prepared data; `make retrain` writes it."""

    gold: Literal["held_out", "train"] = "held_out"
    """Where its rows with references go: held_out, to calibration and test alone, so that training
    and validation data and the teacher stay as they are; train: to all four splits."""
    shares: SplitShares = SplitShares(validation=0.05, calibration=0.1, test=0.35)
    """Shares of its prompts with references per split, the rest to train; with held_out,
    calibration and test take all of them, in this proportion."""
    prompts: int = Field(2000, ge=0)
    """Most rows that are drawn for their prompts [count]; the teacher answers those that have no
    references."""
    content_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the window's rows, as its window.json says; null: not checked."""
    gold_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of its gold.jsonl: what lets DVC see that people added to it; null: not checked."""


class Prepare(Section):
    """Raw data → train, validation, calibration and test."""

    source: Literal["incidents", "csv", "jsonl", "hub"] = "incidents"
    """Where the data comes from; incidents is generated and needs no file."""
    incidents: Incidents = Incidents()
    """Size of the built-in data."""
    files: SourceFiles | None = None
    """Raw files of a csv or jsonl source."""
    columns: Columns = Columns()
    """Column names of a csv or hub source."""
    hub: Hub | None = None
    """Data set of a hub source."""
    encoding: str = "utf-8"
    """Text encoding of csv files."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Character between the columns of csv files."""
    slot_schema: str | None = None
    """YAML file that says how slots are said; absent for data without records."""
    split: SplitShares = SplitShares()
    """Shares cut from train for the splits that the source does not give."""
    near_duplicate_similarity: float = Field(0.6, gt=0.0, le=1.0)
    """Jaccard similarity of word 3-shingles from which a training prompt counts as a copy of a
    held-out one; one word changed in sixteen leaves 0.67."""
    near_duplicate_record_similarity: float = Field(1.0, gt=0.0, le=1.0)
    """The same for records, over slot-value pairs. One slot of n changed leaves (n-1)/(n+1), and
    answering such a record is what the test asks for, so by default only equal ones are copies."""
    max_reference_slot_errors: int | None = Field(None, ge=0)
    """Slot errors that a training reference may have against its record; null: not checked.
    Held-out references stay as they are."""
    max_chars: int = Field(20_000, ge=1)
    """Longest prompt or reference [characters]; a longer row is rejected."""
    max_line_bytes: int = Field(1_000_000, ge=1)
    """Longest line of a raw file [bytes]; a longer one is rejected without being held in memory."""
    personal_data: Literal["report", "scrub", "off"] = "report"
    """Count personal data per kind, replace it by its kind, or do not look."""
    windows: dict[WindowName, WindowUse] = Field({})
    """Frozen windows that add to the data, by their folder below data/windows."""

    @model_validator(mode="after")
    def _source_is_described(self) -> "Prepare":
        if self.source in ("csv", "jsonl") and self.files is None:
            raise ValueError(f"source {self.source} needs prepare.files.train.path")
        if self.source == "hub" and self.hub is None:
            raise ValueError("source hub needs prepare.hub.name")
        if self.max_reference_slot_errors is not None and self.slot_schema is None:
            raise ValueError("max_reference_slot_errors needs prepare.slot_schema")
        return self
