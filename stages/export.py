"""Export: the student and the baseline as ONNX, with what Triton and TorchServe need to serve them.

Reads   models/student (or --model: another of engine transformers), models/baseline,
        models/winner.json, data/prepared/calibration.jsonl, requirements/train.txt (pins)
Writes  models/export/: student/ and baseline/ (graphs), triton/ (a model repository), torchserve/,
        requirements/, export.json (how the graphs agree with the predictors)
Run     python -m stages.export [--model models/teacher --out models/export_teacher]

No DVC stage: it serves those who run another server than ours. Before anything is there under its
name, calibration prompts are answered by the graphs in onnxruntime and by the predictors; a graph
that answers otherwise leaves nothing. docs/other_servers.md says what to do with it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._stage import print_line

MODEL, BASELINE, OUT = Path("models/student"), Path("models/baseline"), Path("models/export")
WINNER, CALIBRATION = Path("models/winner.json"), Path("data/prepared/calibration.jsonl")
LOCK = Path("requirements/train.txt")
PROMPTS = 200
ROWS = 8  # of a batch, for agreement under batching
TOOLS = ("onnx", "onnxruntime", "onnxscript", "torch", "transformers")


def export(
    model: Path,
    baseline: Path | None,
    winner: Path | None,
    calibration: Path,
    lock: Path,
    out: Path,
    least: int = PROMPTS,
) -> dict[str, Any]:
    """Write the export; an older one is replaced once the new one has been compared.

    Args:
        baseline: its folder; None: without it.
        winner: what select chose, to be compared with the student's graph, too.
        least: prompts to compare with.

    Returns:
        What export.json holds.

    Raises:
        StillhouseError: a model that cannot be exported, too few prompts, or a graph that
            answers otherwise than its predictor.
    """
    from stages._export.originals import compare_winner, read_asked, read_winner
    from stages._export.writing import write_requirements

    asked = read_asked(calibration, least)
    report: dict[str, Any] = {"made_with": {tool: version(tool) for tool in TOOLS}}
    with _io.writing_folder(out) as folder:
        report["student"] = export_student(model, asked, folder)
        if winner is not None:
            report["winner"] = compare_winner(read_winner(winner), folder / "student", asked)
        if baseline is not None:
            report["baseline"] = export_baseline(baseline, asked, folder)
        write_requirements(lock, folder)
        _io.write_json(folder / "export.json", report)
    return report


def export_student(source: Path, asked: Sequence[Any], out: Path) -> dict[str, Any]:
    """The student's graph, compared and laid out; returns what is told of it."""
    from stages._export.agreement import agreement_in_batches, compare_student
    from stages._export.originals import load_original
    from stages._export.shipped.generate import MODEL_NAME, onnxruntime_step
    from stages._export.writing import lay_out_student, write_student

    predictor = load_original(source)
    folder = write_student(source, predictor, out)
    step = onnxruntime_step(folder / MODEL_NAME)
    agreement = compare_student(folder, step, predictor, asked)
    lay_out_student(folder, read_contract(folder), out)
    return {
        "source": str(source),
        "source_sha256": digest(source),
        "sha256": digest(folder),
        "graph_mb": round((folder / MODEL_NAME).stat().st_size / 1e6, 3),
        "agreement": agreement,
        "in_batches": agreement_in_batches(folder, step, asked, ROWS),
    }


def export_baseline(source: Path, asked: Sequence[Any], out: Path) -> dict[str, Any]:
    """The baseline's graphs, compared and laid out; returns what is told of them."""
    from serving.predictor import load
    from stages._export.baseline_agreement import compare_baseline
    from stages._export.baseline_running import onnxruntime_judge, onnxruntime_search
    from stages._export.shipped.retrieve import open_baseline
    from stages._export.writing import lay_out_baseline, write_baseline

    original: Any = load(source)
    folder = write_baseline(original, out)
    exported = open_baseline(
        source,
        onnxruntime_search(folder / "retrieval.onnx"),
        onnxruntime_judge(folder / "confidence.onnx"),
    )
    agreement = compare_baseline(original, exported, asked)
    lay_out_baseline(folder, source, out)
    sizes = {p.stem: round(p.stat().st_size / 1e6, 3) for p in sorted(folder.glob("*.onnx"))}
    return {
        "source": str(source),
        "source_sha256": digest(source),
        "graphs_mb": sizes,
        "agreement": agreement,
    }


def describe(report: Mapping[str, Any], out: Path) -> list[str]:
    """What a person needs to know of an export, a line each."""
    lines = []
    for name in ("student", "baseline"):
        if name in report:
            told = report[name]["agreement"]
            differences = [f"{k} {v:.1e}" for k, v in told.items() if k.endswith("_difference")]
            lines.append(
                f"{name}: {told['identical']} of {told['prompts']} answers identical, "
                f"{len(told['ties'])} ties; {', '.join(differences)}"
            )
    if winner := report.get("winner"):
        lines.append(
            f"winner {winner['candidate']}: {winner['identical_greedy']} of {winner['prompts']} "
            f"answers identical greedily, {winner['identical_as_served']} as it is served"
        )
    return [*lines, f"{out}/", "Next: docs/other_servers.md"]


def main() -> None:
    """Export what the command line names."""
    asked = _parse_arguments()
    baseline = None if asked.no_baseline else asked.baseline
    winner = WINNER if asked.model == MODEL and WINNER.is_file() else None
    try:
        report = export(asked.model, baseline, winner, CALIBRATION, LOCK, asked.out, asked.prompts)
    except StillhouseError as error:
        sys.exit(f"error: export: {error}")
    for line in describe(report, asked.out):
        print_line(line)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, help="a decoder's folder (%(default)s)")
    add("--baseline", type=Path, default=BASELINE, help="the baseline's folder (%(default)s)")
    add("--no-baseline", action="store_true", help="leave the baseline out")
    add("--out", type=Path, default=OUT, help="where the export goes (%(default)s)")
    add("--prompts", type=int, default=PROMPTS, help="prompts to compare with (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
