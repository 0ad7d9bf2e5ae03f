"""The public E2E NLG benchmark, from its files to every served variant, beside published systems.

    E2E_DIR=/path/to/e2e python -m benchmarks.e2e --write            # hours; goes on where it was
    python -m benchmarks.e2e --project FOLDER --write                # of a project that has run

In a copy of this project below scratch/e2e, configs/e2e.yaml goes through the whole graph: teacher,
labels, three students and three controls, variants, answers to the test split, evaluation,
benchmark, selection. What its reports say is put into one table, beside what others published on
the same test split; benchmarks/e2e.json holds the figures and benchmarks/e2e.md the table.

The data is no part of this project (CC BY-SA 4.0, github.com/tuetschek/e2e-dataset).
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks._drift_demo_project import Demo, copy_project
from serving.errors import StillhouseError
from stages import _io
from stages._params import load_params

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "scratch/e2e"
RESULTS = ROOT / "benchmarks/e2e.json"
TABLE = ROOT / "benchmarks/e2e.md"
TEST_SHA256 = "edc8db685e39bb9824d5bd70c18b1c9b0412d14b527aa960e2d1c8251ee15ccd"
# BLEU by the official scorer, whose lower-cased 13a tokens give sacrebleu's figures.
PUBLISHED = (
    {
        "name": "TGen, the challenge's baseline",
        "bleu": 65.93,
        "source": "Dušek, Novikova and Rieser 2020, arXiv:1901.07931",
    },
    {
        "name": "GPT-2 Medium, fully tuned",
        "parameters": 354_920_000,
        "bleu": 68.2,
        "source": "Hu et al. 2021, arXiv:2106.09685, table 3 (beam search with 10 beams)",
    },
    {
        "name": "GPT-2 Medium, LoRA",
        "parameters": 354_920_000,
        "bleu": 70.4,
        "source": "the same (0.35 M trained parameters)",
    },
)
COMMAND = "E2E_DIR=/path/to/e2e python -m benchmarks.e2e --write"
HEAD = (
    "system",
    "parameters",
    "BLEU",
    "slot errors",
    "MB on disk",
    "peak MB",
    "p50, p95 of one request",
    "requests/s",
    "USD per 1,000 requests",
)
Row = dict[str, Any]


def run_project(data: Path) -> Path:
    """The whole graph on E2E in a copy of this project; its folder.

    Args:
        data: folder with trainset.csv, devset.csv and testset_w_refs.csv.

    Raises:
        StillhouseError: no data, or a stage that fails; what is done stays.
    """
    if not (data / "trainset.csv").is_file():
        raise StillhouseError(
            f"expected E2E_DIR to name a folder with trainset.csv, found {str(data)!r}. The data "
            f"is at github.com/tuetschek/e2e-dataset."
        )
    os.environ["E2E_DIR"] = str(data.resolve())
    demo = Demo(ROOT, FOLDER)
    demo.step("copy", copy_project)
    demo.step("profile", lambda it: {"code": it.run("profile", "stages._profile", "e2e")})
    demo.step("pipeline", lambda it: {"code": it.run("pipeline", "stages._pipeline")})
    return demo.project


def collect(project: Path) -> dict[str, Any]:
    """What the reports of a finished project say of every candidate on the test split.

    Raises:
        StillhouseError: a report is missing, or the project's data is not E2E's.
    """
    params = load_params(project / "params.yaml")
    test = params.prepare.files.test if params.prepare.files else None
    if test is None or test.sha256 != TEST_SHA256:
        raise StillhouseError(
            f"{project} has other data: expected E2E's test split (sha256 {TEST_SHA256[:12]}…), as "
            f"configs/e2e.yaml names it."
        )
    reports = project / "reports"
    measured = _io.read_json(reports / "select/comparison.json")["rows"]
    costs = {row["name"]: row for row in measured}
    rows = []
    for name in params.answer.candidates:
        scores = _io.read_json(reports / f"evaluate/{name}.json")
        told = _io.read_json(reports / f"benchmark/{name}.json")
        rows.append(
            {
                "name": name,
                "engine": told["engine"],
                "scheme": told["scheme"],
                "parameters": scores["model"]["parameters"],
                "bleu": scores["bleu"],
                "slot_error_rate": scores["slot_error_rate"],
                "latency_p50_ms": told["latency_ms"]["p50"],
                "latency_p95_ms": told["latency_ms"]["p95"],
                "peak_memory_mb": told["peak_memory_mb"],
                "disk_mb": told["disk_mb"],
                "requests_per_s": max(told["requests_per_s"].values()),
                "cost_per_1k_requests_usd": told["cost_per_1k_requests_usd"],
                "noisy": told["machine"]["noisy"],
            }
            | ({"role": costs[name]["role"]} if name in costs else {})
        )
    machine = _io.read_json(reports / "benchmark/student.json")
    decision = _io.read_json(reports / "select/decision.json")
    ladder = _io.read_json(reports / "ladder/ladder.json")
    leakage = _io.read_json(reports / "prepare/leakage.json")
    return {
        "leaked_references": leakage["sentence_frames_in_train"]["test"]["references"],
        "data": scores["data"] | {"prompts": scores["examples"]},
        "machine": {key: machine[key] for key in ("processor", "threads", "hourly_price_usd")},
        "seeds": seeds(list(params.answer.candidates)),
        "winner": winner_of(decision),
        "ladder": {
            "bleu": ladder["kd_gain"],
            "slot_error_rate": ladder["kd_gain_slot_error_rate"],
            "of_the_teacher": ladder["student_to_teacher"]["bleu_ratio"],
            "verdict": ladder["verdict"],
        },
        "rows": rows,
        "published": list(PUBLISHED),
    }


def winner_of(decision: Mapping[str, Any]) -> str | None:
    """The candidate that wins on a CPU."""
    found = decision["winners"]["cpu"]
    return str(found["candidate"] if isinstance(found, Mapping) else found) if found else None


def seeds(names: Sequence[str]) -> dict[str, list[str]]:
    """The candidates that differ by their seed alone: student, student_2 …"""
    return {
        kind: [name for name in names if re.fullmatch(rf"{kind}(_\d+)?", name)]
        for kind in ("student", "control")
    }


def render(found: Mapping[str, Any]) -> str:
    """The page: what was measured, what others published, what it says."""
    machine, data = found["machine"], found["data"]
    signature = found["rows"][0]["bleu"]["signature"]
    slots = found["rows"][0]["slot_error_rate"]["signature"]
    lines = [
        "# E2E NLG, test split",
        "",
        _origin(found["from_project"], machine["threads"]) + " The figures are in",
        f"[e2e.json](e2e.json). {data['prompts']} prompts, 95 % bootstrap intervals over prompts; "
        f"processor: {machine['processor']},",
        f"{machine['threads']} thread(s) a process. BLEU `{signature}`,",
        f"slot errors `{slots}`.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
        *(_measured(row, row["name"] == found["winner"]) for row in found["rows"]),
        *(_published(row) for row in found["published"]),
        "",
        f"Costs: a machine at {machine['hourly_price_usd']} USD an hour, fully used, in the best "
        f"batch size. Published BLEU is the official scorer's,",
        "with which sacrebleu's agrees (mteval's tokens, lower-cased); the rest was not published "
        "there. MB on disk of published",
        "models are four bytes a parameter.",
        "",
        *(f"- {row['name']}: {row['source']}" for row in found["published"]),
        "",
        "## What it says",
        "",
        *(f"- {line}" for line in verdicts(found)),
    ]
    return "\n".join(lines) + "\n"


def _measured(row: Row, wins: bool) -> str:
    name = f"**`{row['name']}`**, the winner" if wins else f"`{row['name']}`"
    engine = row["engine"] if row["scheme"] is None else f"{row['engine']}, {row['scheme']}"
    noisy = ", noisy" if row["noisy"] else ""
    cells = [
        f"{name} ({engine})",
        f"{row['parameters']:,}",
        interval(row["bleu"], 1),
        f"{interval(row['slot_error_rate'], 100)} %",
        f"{row['disk_mb']:.1f}",
        f"{row['peak_memory_mb']:.0f}",
        f"{row['latency_p50_ms']:.0f}, {row['latency_p95_ms']:.0f} ms{noisy}",
        f"{row['requests_per_s']:.1f}",
        f"{row['cost_per_1k_requests_usd']:.5f}",
    ]
    return f"| {' | '.join(cells)} |"


def _published(row: Mapping[str, Any]) -> str:
    parameters = row.get("parameters")
    disk = f"{4 * parameters / 1e6:,.0f}" if parameters else "–"
    told = f"{parameters:,}" if parameters else "–"
    return f"| {row['name']} | {told} | {row['bleu']} | – | {disk} | – | – | – | – |"


def interval(score: Mapping[str, float], factor: float) -> str:
    """`67.1 [65.8, 68.4]`."""
    value, low, high = (score[key] * factor for key in ("score", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """Where this project stands, and where it loses and by how much."""
    rows = {row["name"]: row for row in found["rows"]}
    names, ladder = found["seeds"]["student"], found["ladder"]
    bleu = mean(rows[name]["bleu"]["score"] for name in names)
    parameters = rows["student"]["parameters"]
    lines = [
        f"The student has {bleu:.1f} BLEU in the mean of {len(names)} seeds: "
        f"{interval(ladder['of_the_teacher'], 100)} % of its teacher's with "
        f"{parameters / rows['teacher']['parameters']:.0%} of the parameters.",
        f"Less the control ({len(found['seeds']['control'])} seeds) it is "
        f"{interval(ladder['bleu'], 1)} BLEU and {interval(ladder['slot_error_rate'], 100)} points "
        f"of slot errors; the ladder's verdict, which is on BLEU: {ladder['verdict']}.",
    ]
    for row in found["published"]:
        size = f", with {row['parameters'] // parameters} times" if row.get("parameters") else ""
        lines.append(
            f"To {row['name']} ({row['bleu']}{size}{' the parameters' if size else ''}) the "
            f"student's mean is {bleu - row['bleu']:+.1f} BLEU."
        )
    if "baseline" in rows:
        lines.append(
            f"The baseline's {rows['baseline']['bleu']['score']:.1f} is leakage: "
            f"{found['leaked_references']:.0%} of the test references are training sentences with "
            f"other names and values (docs/results.md)."
        )
    if any(row["noisy"] for row in found["rows"]):
        lines.append(
            "`noisy`: a fixed product took over a tenth more or less time after the measurement "
            "than before it; read such latencies as orders of magnitude."
        )
    return lines


def _origin(from_project: bool, threads: int) -> str:
    """The commands that made the figures, and the one that repeats them."""
    if not from_project:
        return f"Written by `{COMMAND}` from the reports of that run."
    return (
        f"Collected by `python -m benchmarks.e2e --project CLONE --write` from a clone in which "
        f"`make profile NAME=e2e`, with `run.threads: {threads}`, and `make repro` had run; "
        f"`{COMMAND}` does all of it."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not run, collect, print, and write where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", type=Path, help="a project that has run configs/e2e.yaml")
    parser.add_argument("--write", action="store_true", help="write benchmarks/e2e.json and e2e.md")
    asked = parser.parse_args(arguments)
    try:
        project = asked.project or run_project(Path(os.environ.get("E2E_DIR", "")))
        found = {"from_project": asked.project is not None, **collect(project)}
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    page = render(found)
    print(page)
    if asked.write:
        _io.write_json(RESULTS, found)
        _io.write_text(TABLE, page)


if __name__ == "__main__":
    main()
