"""Prepare: raw data → train, validation, calibration and test, with every row accounted for.

Reads   the source named in params.yaml (built-in incidents, csv, jsonl, or a hub data set); of
        data/windows/ those windows that it names
Writes  data/prepared/{train,validation,calibration,test}.jsonl: one prompt per line with all its
        references and a stable id; rejected.jsonl: file, line and reason of each unused row;
        slots.json: the slot schema as data (null without one); windows.jsonl: prompts of the
        windows that params.yaml names, for the teacher (empty without any);
        reports/prepare/: counts.json (rows that came in and where they went), difficulty.json,
        leakage.json (prompts that two splits share, held-out sentences that train has with other
        values), vocabulary.json, lengths.csv (length histograms), personal_data.json
Run     python -m stages.prepare

Splits that the source gives stay as they are. The others are cut from train by prompt, so that no
prompt is on two sides; then training prompts that are copies of a held-out one, exact or near, are
removed from train only. Windows come last and change nothing that was there before.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._difficulty import difficulty, frame_overlap
from stages._incidents import IncidentCounts, generate
from stages._params import Params, Prepare, read_yaml
from stages._prepared import (
    HELD_OUT,
    SPLITS,
    Example,
    Groups,
    Split,
    cut_splits,
    group_rows,
    length_histogram,
    remove_leaks,
    remove_unfaithful,
    shared_prompts,
    vocabulary,
)
from stages._privacy import PersonalData
from stages._sources import Counts, Limits, Rejection, Row, fetch, read_csv, read_hub, read_jsonl
from stages._stage import run_stage
from stages._window_examples import Source, take_windows

INPUTS = {"raw": Path("data/raw"), "windows": Path("data/windows")}
OUTPUTS = {"prepared": Path("data/prepared"), "reports": Path("reports/prepare")}
DOWNLOADS = Path("scratch/downloads")


def prepare(
    params: Params,
    inputs: dict[str, Path],
    outputs: dict[str, Path],
) -> dict[str, Any]:
    """Read, check, group, split and report; returns the counts."""
    settings = params.prepare
    schema_data = read_yaml(Path(settings.slot_schema)) if settings.slot_schema else None
    schema = SlotSchema.from_dict(schema_data) if schema_data is not None else None
    personal, read = PersonalData(settings.personal_data), Counts()

    groups = group_rows(read_source(settings, params.seed, read), schema, personal)
    _io.write_jsonl(outputs["prepared"] / "rejected.jsonl", map(asdict, groups.rejected))
    cut_splits(groups, settings.split, params.seed, given_splits(settings))
    remove_leaks(
        groups, settings.near_duplicate_similarity, settings.near_duplicate_record_similarity
    )
    if schema is not None and settings.max_reference_slot_errors is not None:
        remove_unfaithful(groups, schema, settings.max_reference_slot_errors)
    _check_splits(groups, outputs["prepared"])
    source = Source(settings, schema, personal, params.seed)
    folder = inputs.get("windows", INPUTS["windows"])
    taken = take_windows(settings.windows, folder, groups, source)

    examples = {split: groups.examples(split) + taken.splits[split] for split in SPLITS}
    _io.write_jsonl(outputs["prepared"] / "windows.jsonl", taken.prompts)
    for split in reversed(SPLITS):  # train last: a stage that finds it finds the others too
        _io.write_jsonl(outputs["prepared"] / f"{split}.jsonl", examples[split])
    rejected = [*map(asdict, groups.rejected), *taken.rejected]
    _io.write_jsonl(outputs["prepared"] / "rejected.jsonl", rejected)
    _io.write_json(outputs["prepared"] / "slots.json", schema_data)
    counts = groups.counts() | {"blank_lines": read.blank, "warnings": dict(read.warnings)}
    counts |= {"windows": taken.counts} if taken.counts else {}
    _write_reports(outputs["reports"], counts, examples, personal)
    return counts


def given_splits(settings: Prepare) -> set[str]:
    """Splits that the source gives, whether or not any of their rows can be used."""
    if settings.source == "incidents":
        return set(SPLITS)
    if settings.source == "hub":
        return set(settings.hub.splits) if settings.hub else set()
    return {split for split in SPLITS if getattr(settings.files, split) is not None}


def read_source(settings: Prepare, seed: int, counts: Counts) -> Iterator[Row | Rejection]:
    """Rows and rejections of the source, in the order of its files."""
    match settings.source:
        case "incidents":
            yield from _read_incidents(settings, seed)
        case "hub":
            yield from _read_hub(settings, counts)
        case _:
            yield from _read_files(settings, counts)


def _read_incidents(settings: Prepare, seed: int) -> Iterator[Row]:
    sizes = settings.incidents
    counts = IncidentCounts(
        train=sizes.train_prompts,
        validation=sizes.validation_prompts,
        calibration=sizes.calibration_prompts,
        test=sizes.test_prompts,
        train_references=sizes.train_references,
        held_out_references=sizes.held_out_references,
    )
    for split, examples in generate(seed, counts).items():
        for number, example in enumerate(examples, start=1):
            for text in example["references"]:
                slots, meta = example["slots"], example.get("meta")
                yield Row("incidents", number, split, example["prompt"], text, slots, None, meta)


def _read_hub(settings: Prepare, counts: Counts) -> Iterator[Row | Rejection]:
    hub = settings.hub
    assert hub is not None, "checked by Prepare"
    for split, hub_split in hub.splits.items():
        yield from read_hub(
            hub.name,
            hub.revision,
            split,
            hub_split=hub_split,
            prompt_column=settings.columns.prompt,
            response_column=settings.columns.response,
            counts=counts,
            limits=_limits(settings),
        )


def _read_files(settings: Prepare, counts: Counts) -> Iterator[Row | Rejection]:
    assert settings.files is not None, "checked by Prepare"
    for split in SPLITS:
        file = getattr(settings.files, split)
        if file is None:
            continue
        path = fetch(file.path, file.sha256, DOWNLOADS, Path())
        # a training file may name the split of each row itself
        given = split if split != "train" else None
        if settings.source == "jsonl":
            limits = _limits(settings)
            yield from read_jsonl(path, given, counts=counts, limits=limits, file=file.path)
        else:
            yield from read_csv(
                path,
                given,
                prompt_column=settings.columns.prompt,
                response_column=settings.columns.response,
                encoding=settings.encoding,
                delimiter=settings.delimiter,
                counts=counts,
                limits=_limits(settings),
                file=file.path,
            )


def _limits(settings: Prepare) -> Limits:
    return Limits(max_chars=settings.max_chars, max_line_bytes=settings.max_line_bytes)


def _check_splits(groups: Groups, folder: Path) -> None:
    """Every split needs prompts, and train more than one thing to say."""
    empty = [split for split in SPLITS if not groups.rows[split]]
    reasons = Counter(rejection.reason for rejection in groups.rejected)
    if empty and reasons["not_a_record"] > groups.read / 2:
        raise StillhouseError(
            f"{reasons['not_a_record']} of {groups.read} prompts are no records like slot[value], "
            f"slot[value]. If your data has none, set prepare.slot_schema: null."
        )
    if empty:
        raise StillhouseError(
            f"no usable row for {', '.join(empty)}: {groups.read} rows read, "
            f"{len(groups.rejected)} rejected (reasons in {folder / 'rejected.jsonl'}). "
            f"Give more rows, or a larger share in prepare.split."
        )
    answers = {row.reference for rows in groups.rows["train"].values() for row in rows}
    if len(answers) == 1:
        raise StillhouseError(
            f"all {len(groups.rows['train'])} training prompts have the same answer "
            f"({next(iter(answers))[:60]!r}); there is nothing to learn. Check the response column."
        )


def _write_reports(
    folder: Path,
    counts: dict[str, Any],
    examples: Mapping[Split, list[Example]],
    seen: PersonalData,
) -> None:
    _io.write_json(folder / "counts.json", counts)
    _io.write_json(folder / "personal_data.json", seen.report())
    _io.write_json(folder / "difficulty.json", difficulty(examples["train"], examples["test"]))
    overlap = {split: frame_overlap(examples["train"], examples[split]) for split in HELD_OUT}
    leakage = {"shared_prompts": shared_prompts(examples), "sentence_frames_in_train": overlap}
    _io.write_json(folder / "leakage.json", leakage)
    _io.write_json(folder / "vocabulary.json", vocabulary(examples))
    _io.write_text(folder / "lengths.csv", "\n".join(length_histogram(examples)) + "\n")


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(prepare, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
