"""How well each quality detector finds planted errors: generated incidents, and people's texts.

    python -m benchmarks.detectors incidents
    E2E_DIR=/path/to/e2e python -m benchmarks.detectors e2e --similarity
    … --write    # also benchmarks/detectors.json

Prepares the data in a temporary folder and runs the detectors stage on it with params.yaml, for e2e
with configs/e2e.yaml laid over it, where the clean texts are the references that are listed in
configs/clean_references. Semantic similarity takes minutes. benchmarks/detectors.json holds both
data sets' reports, and no text.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io
from stages._clean_texts import HELD_OUT
from stages._params import Params, check_params, read_yaml
from stages._profile import merge
from stages._stage import set_environment
from stages.detectors import detectors
from stages.prepare import prepare

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/detectors.json"
OVERLAYS: dict[str, dict[str, Any]] = {
    "incidents": {},
    "e2e": {"clean": str(ROOT / "configs/clean_references/e2e_dev.json")},
}


def read_params(name: str, similarity: bool) -> Params:
    """params.yaml with the data set's profile, paths from the project's root."""
    data = read_yaml(ROOT / "params.yaml")
    if name == "e2e":
        merge(data, read_yaml(ROOT / "configs/e2e.yaml"))
    schema = str(ROOT / data["prepare"]["slot_schema"])
    merge(data, {"prepare": {"slot_schema": schema}})
    merge(data, {"detectors": {"similarity": similarity, **OVERLAYS[name]}})
    return check_params(data, ROOT / "params.yaml")


def measure(name: str, folder: Path, prepared: Path | None, similarity: bool) -> dict[str, Any]:
    """Run the stage on one data set, prepared in `folder` where it is not yet; its report."""
    params = read_params(name, similarity)
    set_environment(params)
    if prepared is None:
        prepared = folder
        prepare(params, {"raw": folder}, {"prepared": folder, "reports": folder / "reports"})
    inputs = {split: prepared / f"{split}.jsonl" for split in HELD_OUT}
    inputs["slots"] = prepared / "slots.json"
    report = folder / "reports/detectors.json"
    detectors(params, inputs, {"report": report, "planted": folder / "reports/planted.jsonl"})
    found: dict[str, Any] = _io.read_json(report)
    found["clean"]["source"] = found["clean"]["source"].removeprefix(f"{ROOT}/")
    return found


def table(name: str, report: dict[str, Any]) -> list[str]:
    """Lines of a table: detectors by kinds of error, AUROC and share detected."""
    kinds = list(report["kinds"])
    lines = [f"{name}: {report['clean']['texts']} clean texts, {report['clean']['source']}"]
    lines.append(f"{'AUROC (detected)':24}" + "".join(f"{kind:>18}" for kind in kinds))
    for detector, found in report["detectors"].items():
        if found["status"] != "run":
            lines.append(f"{detector:24}not run: {found['reason']}")
            continue
        cells = [_cell(found["kinds"][kind]) for kind in kinds]
        alarms = f"   false alarms {100 * found['false_alarm_rate']:.1f} %"
        lines.append(f"{detector:24}" + "".join(f"{cell:>18}" for cell in cells) + alarms)
    for key, title in (("false_share", "answers made false"), ("bleu_kept", "BLEU kept")):
        cells = [f"{100 * report['kinds'][kind][key]:.1f} %" for kind in kinds]
        lines.append(f"{title:24}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def _cell(found: dict[str, Any]) -> str:
    if found["status"] != "run":
        return "-"
    return f"{found['auroc']:.3f} ({100 * found['detected']:.0f} %)"


def main() -> None:
    """Measure the data sets on the command line and print a table of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=list(OVERLAYS))
    parser.add_argument("--prepared", type=Path, help="folder that has the data prepared already")
    parser.add_argument("--similarity", action="store_true", help="semantic similarity too")
    parser.add_argument("--write", action="store_true", help="also benchmarks/detectors.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = measure(arguments.data, Path(folder), arguments.prepared, arguments.similarity)
        except StillhouseError as error:
            sys.exit(f"error: detectors: {error}")
    sys.stdout.write("\n".join(table(arguments.data, report)) + "\n")
    if arguments.write:
        results = _io.read_json(RESULTS) if RESULTS.is_file() else {}
        _io.write_json(RESULTS, results | {arguments.data: report})


if __name__ == "__main__":
    main()
