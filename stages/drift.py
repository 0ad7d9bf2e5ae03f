"""Drift: does a window of live requests still look like what the released models were chosen on?

Reads   data/prepared/train.jsonl (what training knew), calibration.jsonl and slots.json; answers
        of the models that models/route.json and winner.json name; data/windows/<drift.window>/
Writes  reports/drift/drift.json (verdict, tests, what it rests on), evidence.json (words, prompts,
        values), index.html (both, to read); scratch/drift/ keeps what only the reference decides
Run     python -m stages.drift

An alarm needs a small p-value, corrected for the number of tests, and an effect that matters. What
is asked, what is answered and how much of it is wrong have a verdict each. The detectors are tried
on the reference itself, so that the report says how often they cry wolf and what they would find.
"""

from pathlib import Path
from typing import Any

import numpy as np

from serving.slots import SlotSchema
from stages import _io
from stages._drift.comparing import Side
from stages._drift.detecting import Compared, compare
from stages._drift.evidence import gather
from stages._drift.features import Row, Table, distinct_places, tabulate
from stages._drift.page import render
from stages._drift.self_calibration import calibrate, keep, kept_under, read_kept
from stages._drift.sources import read_reference, read_rejected, read_rows
from stages._drift.telling import report_on
from stages._drift.vectors import Encoder, choose_texts
from stages._drift.vocabulary import Training, learn
from stages._kept_vectors import Vectors, encode_texts
from stages._params import Params
from stages._stage import print_line, run_stage

INPUTS = {
    "train": Path("data/prepared/train.jsonl"),
    "calibration": Path("data/prepared/calibration.jsonl"),
    "slots": Path("data/prepared/slots.json"),
    "answers": Path("data/answers"),
    "winner": Path("models/winner.json"),
    "route": Path("models/route.json"),
    "windows": Path("data/windows"),
}
OUTPUTS = {"reports": Path("reports/drift"), "kept": Path("scratch/drift")}
Tables = tuple[Table, Table]
"""Reference and window."""


def drift(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Compare the window with the reference; returns the verdict's figures.

    Raises:
        StillhouseError: there is no such window, it is damaged, or answers are missing.
    """
    from stages._windows.reading import summarise  # pyarrow

    settings, folder = params.drift, inputs["windows"] / params.drift.window
    schema_data = _io.read_json(inputs["slots"])
    schema = SlotSchema.from_dict(schema_data) if schema_data else None
    training = learn(_io.read_jsonl(inputs["train"]), schema)
    window = read_rows(folder, params)
    reference = read_reference(params, inputs, bool(window.told["planted"]), schema)
    models = reference.models
    before, after = (tabulate(side.rows, training, models) for side in (reference, window))
    tables = before, after
    encoder = open_encoder(params)
    vectors = encode(tables, params, encoder, outputs["kept"])
    compared = compare(Side(before, vectors), Side(after, vectors), settings, (params.seed,))
    calibration = try_detectors(params, tables, training, vectors, encoder, outputs["kept"])
    report = report_on(compared, tables, (reference, window), calibration, settings)
    report |= {"rejected": read_rejected(folder), "window": summarise(folder)}
    write_reports(report, compared, tables, training, params, outputs["reports"])
    for line in report["rests_on"]["said"]:
        print_line(line)
    return {
        "alarms": len(report["top_features"]),
        "tests": len(report["detectors"]),
        "drift": {kind: int(said == "drift") for kind, said in report["verdicts"].items()},
    }


def open_encoder(params: Params) -> Encoder | None:
    """The sentence model, where vectors are compared."""
    if not params.drift.embeddings:
        return None
    place = params.drift.embedder
    return Encoder(Path(place) if place else None, params.run.threads)


def encode(tables: Tables, params: Params, encoder: Encoder | None, kept: Path) -> Vectors:
    """Vectors of at most so many prompts of each side; those of the reference are kept."""
    if encoder is None:
        return {}
    found: dict[str, Any] = {}
    for number, (table, place) in enumerate(zip(tables, (kept, None), strict=True)):
        rng = np.random.default_rng([params.seed, 4, number])
        texts = choose_texts(table.texts, params.drift.embedded_rows, rng)
        new = [text for text in texts if text not in found]
        found |= encode_texts(new, encoder, place, encoder.name)
    return found


def try_detectors(
    params: Params,
    tables: Tables,
    training: Training,
    vectors: Vectors,
    encoder: Encoder | None,
    kept: Path,
) -> dict[str, Any]:
    """How the detectors do on the reference at this many rows; kept for windows of that size."""
    rows: list[Row] = [tables[0].rows[place] for place in distinct_places(tables[0])]
    window = len(distinct_places(tables[1]))
    name = encoder.name if encoder else ""
    key = kept_under(rows, window, training, name, params.drift, params.seed)
    found = read_kept(kept, key)
    if found is None:
        found = calibrate(rows, window, training, vectors, params.drift, params.seed)
        keep(kept, key, found)
    return dict(found)


def write_reports(
    report: dict[str, Any],
    compared: Compared,
    tables: Tables,
    training: Training,
    params: Params,
    folder: Path,
) -> None:
    """Figures, evidence, and the page of both; Evidently's where it is asked for."""
    evidence = gather(*tables, compared.classifier, training, params.drift.examples)
    _io.write_json(folder / "drift.json", report)
    _io.write_json(folder / "evidence.json", evidence)
    _io.write_text(folder / "index.html", render(report, evidence))
    if params.drift.evidently:
        from stages._drift.evidently_report import write_evidently

        write_evidently(*tables, folder)


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(drift, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
