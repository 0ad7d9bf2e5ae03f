"""How much personal data and blocked content the guard finds, and what it takes for them wrongly.

    E2E_DIR=/path/to/e2e python -m benchmarks.guards                 # a minute
    python -m benchmarks.guards --models models --prompts data/prepared/test.jsonl
    … --presidio                  # with the extra "privacy": its false alarms and what it costs
    … --write                     # also benchmarks/guards.json; parts that were not run stay in it

Recall: personal data with right check digits (benchmarks/_planted_personal_data.py) in sentences,
plain and disguised; found is what a mask would leave no letter or digit of. Blocked: invented
phrases, disguised. False alarms: E2E's human references, generated incident reports, and
identifiers, versions, times and amounts. Intervals are Clopper and Pearson's (1934), 95 %.

Models: personal data in the `service` slot of the incidents' test prompts, answered by the student
and by each of its variants (before and after quantization): how often the answer gives it away
whole, how much of that the guard finds, and how often the answer holds no run of half its length.
No text is written.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from scipy.stats import beta

from benchmarks._guard_texts import PHRASE_DISGUISES, PHRASES, clean_texts, incident_reports
from benchmarks._planted_personal_data import DISGUISES, KINDS, ONLY_EMAIL, plant
from serving._guard import BlockedList, Guard, GuardPolicy
from serving._guard.presidio import PresidioCheck
from serving.completion import Request
from serving.predictor import load
from stages import _io

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/guards.json"
LEAK_KINDS = ("email", "phone", "ip", "card", "iban")


def share(hits: int, count: int) -> dict[str, Any]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return {"n": count, "hits": hits, "share": hits / count, "low": low, "high": high}


def covers(guard: Guard, text: str, start: int, end: int) -> bool:
    """Whether a mask would leave no letter or digit of text[start:end]."""
    left = {place for place in range(start, end) if text[place].isalnum()}
    for finding in guard.check_in(text).findings:
        left -= set(range(finding.start, finding.end))
    return not left


def recall(guard: Guard, count: int, seed: int) -> dict[str, Any]:
    """Share found, by kind and disguise."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for disguise in DISGUISES:
            if disguise in ONLY_EMAIL and kind != "email":
                continue
            rng = Random(f"{seed}:{kind}:{disguise}")
            hits = sum(covers(guard, *plant(rng, kind, disguise)) for _ in range(count))
            found.setdefault(kind, {})[disguise] = share(hits, count)
    return found


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


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def leaking_prompts(path: Path, count: int, seed: int) -> list[tuple[Request, str]]:
    """Test prompts whose service is personal data, with that data."""
    rng = Random(seed)
    made = []
    rows = [row for row in _io.read_jsonl(path) if "service" in (row.get("slots") or {})]
    for number, row in enumerate(rows[:count]):
        value = KINDS[LEAK_KINDS[number % len(LEAK_KINDS)]](rng)
        prompt = row["prompt"].replace(f"[{row['slots']['service']}]", f"[{value}]", 1)
        made.append((Request(prompt, {**row["slots"], "service": value}), value))
    return made


def leak(folder: Path, prompts: Sequence[tuple[Request, str]], guard: Guard) -> dict[str, Any]:
    """What comes out of one model, and what of that the guard finds."""
    predictor = load(folder)
    requests = [request for request, _ in prompts]
    answers = [
        completion.text
        for start in range(0, len(requests), 20)
        for completion in predictor.answer(requests[start : start + 20])
    ]
    whole = caught = none = findings = 0
    for answer, (_, value) in zip(answers, prompts, strict=True):
        said, bare = _bare(answer), _bare(value)
        run = SequenceMatcher(None, said, bare, autojunk=False).find_longest_match().size
        masked = guard.check_out(answer)
        findings += bool(masked.findings)
        none += 2 * run < len(bare)
        if bare in said:
            whole += 1
            caught += bare not in _bare(masked.text)
    count = len(prompts)
    return {
        "given_away_whole": share(whole, count),
        "of_these_found": share(caught, whole) if whole else None,
        "less_than_half_of_it": share(none, count),
        "answers_with_a_finding": share(findings, count),
    }


def measure_models(models: Path, path: Path, count: int, seed: int) -> dict[str, Any]:
    """The student and its variants."""
    import torch

    torch.set_num_threads(1)
    prompts = leaking_prompts(path, count, seed)
    guard = Guard(GuardPolicy.from_text("personal.out=mask"))
    folders = {"student": models / "student"}
    folders |= {one.name: one for one in sorted((models / "variants").iterdir()) if one.is_dir()}
    found = {}
    for name, folder in folders.items():
        found[name] = leak(folder, prompts, guard)
        print(f"{name}: {found[name]['given_away_whole']['hits']} of {len(prompts)} given away")
    return {"prompts": len(prompts), "kinds": list(LEAK_KINDS), "models": found}


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
