"""How often the drift detectors cry wolf, and what they find, beside Evidently's defaults.

    python -m benchmarks.drift                                   # a quarter of an hour on one core
    … --evidently ENV/bin/python     # the same windows to Evidently, installed in a virtual
                                     # environment of its own: pip install evidently "pandas<3";
                                     # an hour and a half more
    … --models models                # the winner answers: output and quality are tested, too
    … --only none/200 units --repeats 20 --planted 20            # part of it
    … --part 1/2                     # every second repeat, so that two processes share the work
    … --write                        # benchmarks/drift.json from all that was done so far
                                     # (with --repeats 0 --planted 0 nothing else is done)

Windows without drift of 50, 200 and 1,000 rows (200 repeats), and planted ones of 200 rows, each
scenario of stages/_incidents/drift.py in 10, 30 and 100 % of the rows (100 repeats). A repeat deals
a reference (500 rows, as many as the calibration split) and a window out of 10,000 fresh rows that
are drawn as the held-out splits are (_drift_draws.py). Both judges get the same rows, vectors and
columns. Settings are those of params.yaml (drift); intervals Clopper and Pearson's (1934), 95 %.

Evidently takes some 7 s of CPU for a window, 20 times ours; of the planted ones it gets the first
20 repeats (--evidently-planted). Each verdict is written to scratch/drift-benchmark/ when it is
made, under a name that follows from all that it depends on: a run that was cut off goes on, one
with other detectors or settings begins anew. A file per part, so that parts run side by side; begin
one alone, until the pool is encoded.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks._drift_detectors import Evidently, judge_by_ours
from benchmarks._drift_draws import (
    REFERENCE_ROWS,
    Cell,
    all_cells,
    chosen_cells,
    deal,
    work_of,
)
from benchmarks._drift_pool import Pool, open_pool, winner_of
from benchmarks._drift_summary import summarise, table
from serving.contract import digest
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._drift.vectors import Encoder
from stages._params import read_yaml
from stages._params.drift import Drift
from stages._progress import report_progress

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/drift.json"
KEPT = ROOT / "scratch/drift-benchmark"
VERSION = "evidently-version"
OF_ROWS = (
    "benchmarks/_drift_draws.py",
    "stages/_drift/features.py",
    "stages/_drift/vocabulary.py",
    "stages/_incidents",
)
"""What makes rows and their columns."""
SOURCES = {
    "ours": ("stages/_drift", *OF_ROWS),
    "evidently": ("benchmarks/_drift_detectors.py", "benchmarks/_drift_evidently.py", *OF_ROWS),
}
"""Code that a detector's verdicts depend on."""
Done = set[tuple[str, int, str]]
"""Cell, repeat and detector of each verdict there is."""


@dataclass(frozen=True)
class Bench:
    """What every window is judged with."""

    settings: Drift
    pool: Pool
    evidently: Evidently | None
    evidently_planted: int
    """Repeats of planted windows that Evidently gets."""

    def judge(self, repeat: int, cell: Cell, done: Done) -> Iterator[dict[str, Any]]:
        """The verdicts on one window that are not there yet."""
        left = [
            name for name in self._detectors(repeat, cell) if (cell.name, repeat, name) not in done
        ]
        if not left:
            return
        reference, window = (self.pool.side(one) for one in deal(repeat, cell, self.pool.places))
        for name in left:
            if name == "evidently" and self.evidently:
                found = self.evidently.judge(reference, window)
            else:
                found = judge_by_ours(reference, window, self.settings, repeat)
            yield {"cell": cell.name, "repeat": repeat, "detector": name, "found": found}

    def _detectors(self, repeat: int, cell: Cell) -> list[str]:
        theirs = cell.scenario == "none" or repeat < self.evidently_planted
        return ["ours", "evidently"] if self.evidently and theirs else ["ours"]


@dataclass(frozen=True)
class Setup:
    """What the params say, who answers, and where verdicts are kept."""

    settings: Drift
    seed: int
    encoder: Encoder
    winner: Path | None

    def folder(self, detector: str) -> Path:
        """Of its verdicts, named by a hash of everything that they depend on."""
        whole = hashlib.sha256()
        for name in SOURCES[detector]:
            for path in sorted([ROOT / name, *(ROOT / name).glob("*.py")]):
                whole.update(path.read_bytes() if path.is_file() else b"")
        told: Any = self.settings.embedded_rows if self.settings.embeddings else 0
        if detector == "ours":
            left_out = {"window", "reference", "calibration", "examples", "evidently"}
            told = self.settings.model_dump(mode="json", exclude=left_out)
        answers = digest(self.winner) if self.winner else None
        whole.update(json.dumps([self.seed, self.encoder.name, answers, told]).encode())
        return KEPT / f"{detector}-{whole.hexdigest()[:16]}"

    @property
    def folders(self) -> dict[str, Path]:
        """Of each detector."""
        return {detector: self.folder(detector) for detector in SOURCES}


def set_up(arguments: argparse.Namespace) -> Setup:
    """Read the params, and find the winner where there is one to answer."""
    params = read_yaml(arguments.params)
    settings = Drift.model_validate(params.get("drift") or {})
    encoder = Encoder(Path(settings.embedder) if settings.embedder else None)
    winner = winner_of(arguments.models / "winner.json") if arguments.models else None
    return Setup(settings, int(params["seed"]), encoder, winner)


def read_lines(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The verdicts of all parts, each once; a last line that was torn is done again."""
    lines = {}
    for path in sorted(path for folder in folders for path in folder.glob("part-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            lines[line["cell"], line["repeat"], line["detector"]] = line
    return list(lines.values())


def run(arguments: argparse.Namespace, setup: Setup) -> None:
    """Make the verdicts that were asked for, and write each when it is made."""
    folders, (part, parts) = setup.folders, arguments.part
    work = work_of(chosen_cells(arguments.only), arguments.repeats, arguments.planted)
    work = [one for one in work if one[0] % parts == part]
    lines = read_lines(folders.values())
    done = {(line["cell"], line["repeat"], line["detector"]) for line in lines}
    print(f"{len(work)} windows, {len(done)} verdicts are there: {KEPT.relative_to(ROOT)}")
    if not work:
        return
    with ExitStack() as stack:
        theirs = None
        if arguments.evidently:
            theirs = stack.enter_context(Evidently(arguments.evidently))
            _io.write_text(folders["evidently"] / VERSION, theirs.version)
        bench = Bench(setup.settings, _open_pool(setup), theirs, arguments.evidently_planted)
        name = f"part-{part + 1}-of-{parts}.jsonl"
        streams = {
            detector: stack.enter_context(open_part(folder / name))
            for detector, folder in folders.items()
        }
        progress = report_progress("windows", len(work))
        for number, (repeat, cell) in enumerate(work, start=1):
            for line in bench.judge(repeat, cell, done):
                stream = streams[line["detector"]]
                stream.write(json.dumps(line) + "\n")
                stream.flush()
            progress(number)


def open_part(path: Path) -> IO[str]:
    """A file to add verdicts to; a line that was torn is ended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = path.open("a", encoding="utf-8")
    if stream.tell():
        stream.write("\n")
    return stream


def _open_pool(setup: Setup) -> Pool:
    schema = SlotSchema.from_dict(read_yaml(ROOT / "configs/schemas/incidents.yaml"))
    encoder = setup.encoder if setup.settings.embeddings else None
    rows = setup.settings.embedded_rows
    return open_pool(setup.seed, schema, encoder, rows, setup.winner, KEPT)


def report(setup: Setup) -> dict[str, Any]:
    """All verdicts so far, as the result file tells them."""
    folders = setup.folders
    version = folders["evidently"] / VERSION
    return {
        "reference_rows": REFERENCE_ROWS,
        "settings": setup.settings.model_dump(mode="json", exclude={"window", "reference"}),
        "seed": setup.seed,
        "encoder": setup.encoder.name,
        "answered_by": digest(setup.winner) if setup.winner else None,
        "evidently": version.read_text(encoding="utf-8") if version.is_file() else None,
        "windows": summarise(read_lines(folders.values()), all_cells(), setup.settings.alpha),
    }


def _part(text: str) -> tuple[int, int]:
    """ "1/2" is the first of two."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected such as 1/2")
    return int(part) - 1, int(parts)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="CELL", help="such as none/200, or units")
    add("--repeats", type=int, default=200, help="of windows without drift (200)")
    add("--planted", type=int, default=100, help="of planted windows (100)")
    add("--part", type=_part, default=(0, 1), metavar="K/N", help="one of several processes")
    add("--evidently", type=Path, metavar="PYTHON", help="of an environment with evidently")
    add("--evidently-planted", type=int, default=20, help="of planted windows (20)")
    add("--models", type=Path, help="folder with winner.json, whose winner answers")
    add("--params", type=Path, default=ROOT / "params.yaml")
    add("--write", action="store_true", help="write benchmarks/drift.json")
    return parser.parse_args()


def main() -> None:
    """Judge, print, and write JSON where asked to."""
    arguments = _parse_arguments()
    try:
        setup = set_up(arguments)
        run(arguments, setup)
        results = report(setup)
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    print("\n".join(table(results["windows"])))
    if results["evidently"] is None:
        print("Evidently took no part: give --evidently PYTHON")
    if arguments.write:
        _io.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
