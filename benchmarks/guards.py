"""How much personal data and blocked content the guard finds, and what it takes for them wrongly.

    E2E_DIR=/path/to/e2e python -m benchmarks.guards                 # a minute
    python -m benchmarks.guards --models models --prompts data/prepared/test.jsonl
    … --presidio                  # with the extra "privacy": its false alarms and what it costs
    … --write                     # also benchmarks/guards.json; parts that were not run stay in it

Recall: personal data with right check digits (benchmarks/_planted_personal_data.py) in sentences,
plain and disguised; found is what a mask would leave no letter or digit of. Blocked: invented
phrases, disguised. False alarms: E2E's human references, generated incident reports, and
identifiers, versions, times and amounts. Intervals are Clopper and Pearson's (1934), 95 %.

Models: the student and each of its variants (before and after quantization) answer the incidents'
test prompts with personal data in the `service` slot: how often the answer gives it away whole, how
much of that the guard finds, how often the answer holds no run of half its length. Then the prompts
as they are: false alarms in the answers, and recall of what is planted into them, plain by kind and
disguised. No text is written.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._guard_models import covers, measure_models
from benchmarks._guard_texts import PHRASE_DISGUISES, PHRASES, clean_texts, incident_reports
from benchmarks._planted_personal_data import DISGUISES, KINDS, ONLY_EMAIL, plant
from benchmarks._shares import share
from serving._guard import BlockedList, Guard, GuardPolicy
from serving._guard.presidio import PresidioCheck
from stages import _io

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/guards.json"


def recall(guard: Guard, count: int, seed: int) -> dict[str, Any]:
    """Share found, by kind and disguise."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for disguise in DISGUISES:
            if disguise in ONLY_EMAIL and kind != "email":
                continue
            rng = Random(f"{seed}:{kind}:{disguise}")
            planted = [plant(rng, kind, disguise) for _ in range(count)]
            hits = sum(covers(_spans(guard, one[0]), *one) for one in planted)
            found.setdefault(kind, {})[disguise] = share(hits, count)
    return found


def _spans(guard: Guard, text: str) -> list[tuple[int, int]]:
    return [(finding.start, finding.end) for finding in guard.check_in(text).findings]


def blocked_recall(path: Path, leet: bool) -> dict[str, Any]:
    """Share of invented phrases found, by disguise."""
    path.write_text("\n".join(PHRASES) + "\n", encoding="utf-8")
    guard = Guard(GuardPolicy.from_text("blocked.in=mask"), BlockedList(path, leet))
    found = {}
    for disguise, change in PHRASE_DISGUISES.items():
        changed = [
            change(phrase) for phrase in PHRASES if disguise == "plain" or change(phrase) != phrase
        ]
        hits = sum(guard.check_in(f"They said {one} to us.").state == "found" for one in changed)
        found[disguise] = share(hits, len(changed))
    return found


def false_alarms(guard: Guard, seed: int) -> dict[str, Any]:
    """Share of clean texts with any finding, by source, and the rules that found it."""
    found: dict[str, Any] = {}
    for source, texts in clean_texts(seed).items():
        unique = sorted(set(texts))
        findings = [guard.check_in(text).findings for text in unique]
        rules: dict[str, int] = {}
        for rule in (rule for one in findings for rule in {finding.rule for finding in one}):
            rules[rule] = rules.get(rule, 0) + 1
        found[source] = {**share(sum(map(bool, findings)), len(unique)), "rules": rules}
    return found


def microseconds(guard: Guard, text: str, repeats: int = 200) -> float:
    """CPU time per 1,000 characters [µs], the fastest of five rounds."""
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(repeats // 5):
            guard.check_in(text)
        rounds.append((time.process_time() - started) / (repeats // 5))
    return round(min(rounds) * 1e6 * 1000 / len(text), 1)


def speed(path: Path, guards: Mapping[str, Guard]) -> dict[str, float]:
    """CPU time per 1,000 characters of incident reports, by what is looked for [µs]."""
    text = " ".join(row["references"][0] for row in incident_reports(7, 40))[:1000]
    words = sorted(
        {word for row in incident_reports(8) for word in re.findall("[a-z]{4,}", row["prompt"])}
    )
    path.write_text("".join(f"{a} {b}\n" for a in words[:40] for b in words[:25]), encoding="utf-8")
    blocked = Guard(GuardPolicy.from_text("personal.in=off,blocked.in=flag"), BlockedList(path))
    return {name: microseconds(guard, text) for name, guard in guards.items()} | {
        "blocked_1000_phrases": microseconds(blocked, text)
    }


PRESIDIO_COST = """
import resource, sys, time
from serving._guard.presidio import PresidioCheck
from serving import personal_data
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
PresidioCheck()
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(time.process_time() - started, used / 1024, "torch" in sys.modules)
"""


def presidio_cost() -> dict[str, Any]:
    """What building the recognisers takes in a fresh process."""
    command = [sys.executable, "-c", PRESIDIO_COST]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    seconds, megabytes, torch = done.stdout.split()
    return {
        "cpu_s": round(float(seconds), 2),
        "memory_mb": round(float(megabytes), 1),
        "imports_torch_where_installed": torch == "True",
    }


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50, help="planted per kind and disguise (50)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=Path, help="folder with student/ and variants/")
    parser.add_argument("--prompts", type=Path, help="prepared test prompts of the incidents")
    parser.add_argument("--model-prompts", type=int, default=60, help="prompts per model (60)")
    parser.add_argument("--presidio", action="store_true", help="measure the extra, too")
    parser.add_argument("--write", action="store_true", help="write benchmarks/guards.json")
    arguments = parser.parse_args()
    if (arguments.models is None) != (arguments.prompts is None):
        parser.error("--models and --prompts go together")
    results = measure(arguments)
    if arguments.write:
        known = _io.read_json(RESULTS) if RESULTS.is_file() else {}
        _io.write_json(RESULTS, known | results)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for."""
    if arguments.models is not None:
        found = measure_models(
            arguments.models, arguments.prompts, arguments.model_prompts, arguments.seed
        )
        return {"quantization": found}
    personal = Guard(GuardPolicy.from_text("personal.in=mask"))
    if arguments.presidio:
        both = Guard(GuardPolicy.from_text("personal.in=mask"), presidio=PresidioCheck())
        with TemporaryDirectory() as folder:
            times = speed(Path(folder) / "list.txt", {"personal_and_presidio": both})
        alarms = false_alarms(both, arguments.seed)
        return {"presidio": {"cost": presidio_cost(), "false_alarms": alarms, "us": times}}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        results = {
            "seed": arguments.seed,
            "recall": recall(personal, arguments.count, arguments.seed),
            "false_alarms": false_alarms(personal, arguments.seed),
            "blocked": {"plain": blocked_recall(path, False), "leet": blocked_recall(path, True)},
            "us_per_1000_characters": speed(path, {"personal": personal}),
        }
    print("\n".join(table(results)))
    return results


def table(results: Mapping[str, Any]) -> list[str]:
    """Recall by kind and disguise, false alarms, blocked phrases and speed [%]."""
    lines = [f"{'':16}" + "".join(f"{name[:11]:>12}" for name in DISGUISES)]
    for kind, found in results["recall"].items():
        cells = [f"{100 * found[d]['share']:.0f}" if d in found else "-" for d in DISGUISES]
        lines.append(f"{kind:16}" + "".join(f"{cell:>12}" for cell in cells))
    for source, found in results["false_alarms"].items():
        lines.append(f"false alarms {source}: {found['hits']} of {found['n']} {found['rules']}")
    for mode, found in results["blocked"].items():
        lines.append(
            f"blocked {mode}: " + ", ".join(f"{d} {v['hits']}/{v['n']}" for d, v in found.items())
        )
    return [*lines, f"µs per 1,000 characters: {results['us_per_1000_characters']}"]


if __name__ == "__main__":
    main()
