"""The drift report as one HTML file: no script, nothing from elsewhere, readable on a phone.

Texts of prompts stand in it, so everything is escaped; a browser gets a policy that lets nothing
run and nothing load.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from stages._drift.evidence import describe_test

HEADLINES = {
    "drift": "Drift",
    "no_evidence": "No evidence of drift",
    "too_few_rows": "Too few rows to say",
    "not_compared": "Not compared",
}
KINDS = {
    "input": "what is asked",
    "output": "what is answered",
    "quality": "how much of it is wrong",
}
STYLE = """
:root { --paper: #f6f4ef; --sheet: #fffefb; --ink: #211f1b; --soft: #625d54; --rule: #dcd7cb;
  --accent: #9a4a17; --right: #1d7045; --wrong: #b3261e; --bar: #c9b79f; }
@media (prefers-color-scheme: dark) { :root { --paper: #161513; --sheet: #1f1e1b; --ink: #ece8df;
  --soft: #a8a195; --rule: #38352f; --accent: #eda36d; --right: #7fd0a0; --wrong: #ff9d92;
  --bar: #5b5243; } }
*, *::before, *::after { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 62rem; padding: 1.25rem clamp(1rem, 3vw, 2.5rem) 3rem;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; letter-spacing: -.02em; margin: .2rem 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.drift { color: var(--wrong); } .no_evidence { color: var(--right); }
.soft { color: var(--soft); } .small { font-size: .86rem; line-height: 1.45; }
.kinds, .two { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.card { background: var(--sheet); border: 1px solid var(--rule); border-radius: 10px;
  padding: .8rem 1rem; }
.card b { display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
td.number, th.number { text-align: right; white-space: nowrap; }
.bar { position: relative; height: .5rem; min-width: 6rem; background: var(--rule);
  border-radius: 4px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); }
.alarm .bar i { background: var(--wrong); } .alarm td:first-child { font-weight: 650; }
.bar u { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink); }
ul { margin: 0; padding-left: 1.1rem; } li { margin: .25rem 0; }
.prompt { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .84rem; }
"""
_SLOT_HEADS = "".join(
    f'<th class="number">{name}</th><th class="number">reference</th>'
    for name in ("asked", "not in training", "with new words")
)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(report: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """The page of drift.json and evidence.json."""
    verdict = report["verdict"]
    body = [
        f'<p class="soft">Window {escape(report["rests_on"]["window"]["id"])}</p>',
        f'<h1 class="{escape(verdict)}">{HEADLINES[verdict]}</h1>',
        _kinds(report["verdicts"]),
        _section("What drifted", _features(report["top_features"])),
        _section("What this rests on", _list(report["rests_on"]["said"])),
        _section("Every test", _detectors(report)),
        _section("Words that tell the sides apart", _words(evidence["words"])),
        _section("Prompts most unlike the other side", _examples(evidence["examples"])),
        _section("Slots", _slots(evidence["slots"], evidence["schema"])),
        _section("How far to trust this", _calibration(report)),
        _section("Not compared", _not_compared(report["not_compared"])),
        _section("Not used", _rejected(report["rejected"])),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{HEADLINES[verdict]} · Stillhouse</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(filter(None, body)) + "\n"
        "</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""


def _kinds(verdicts: Mapping[str, str]) -> str:
    cards = [
        f'<div class="card"><span class="small soft">{kind}: {KINDS[kind]}</span>'
        f'<b class="{escape(outcome)}">{HEADLINES[outcome]}</b></div>'
        for kind, outcome in verdicts.items()
    ]
    return f'<div class="kinds">{"".join(cards)}</div>'


def _features(features: Sequence[Mapping[str, Any]]) -> str:
    found = [
        f"<li><b>{escape(one['what'])}</b> <span class='small soft'>({one['kind']})</span><br>"
        f"<span class='small'>{escape(one['found'])}</span></li>"
        for one in features
    ]
    return f"<ul>{''.join(found)}</ul>" if found else ""


def _list(lines: Iterable[str]) -> str:
    found = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{found}</ul>" if found else ""


def _detectors(report: Mapping[str, Any]) -> str:
    rows = "".join(_detector(one) for one in report["detectors"])
    if not rows:
        return ""
    note = (
        f"An alarm takes an adjusted p-value below {report['alpha']:g} and an effect above its "
        f"floor (the mark in the bar)."
    )
    return (
        f'<p class="small soft">{note}</p><div class="wide"><table><tr><th>Test</th><th>Kind</th>'
        '<th>Effect</th><th class="number">effect</th><th class="number">floor</th>'
        '<th class="number">p</th><th class="number">p adjusted</th>'
        f'<th class="number">rows</th></tr>{rows}</table></div>'
    )


def _detector(one: Mapping[str, Any]) -> str:
    full, floor = (100.0 * min(max(float(one[name]), 0.0), 1.0) for name in ("effect", "threshold"))
    bar = (
        f'<div class="bar"><i style="width:{full:.1f}%"></i><u style="left:{floor:.1f}%"></u></div>'
    )
    numbers = [f"{one[name]:.3g}" for name in ("effect", "threshold", "p_value", "p_adjusted")]
    numbers.append(f"{one['n_reference']} / {one['n_current']}")
    cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
    alarm = ' class="alarm"' if one["alarm"] else ""
    name = escape(describe_test(one["name"]))
    return f"<tr{alarm}><td>{name}</td><td>{one['kind']}</td><td>{bar}</td>{cells}</tr>"


def _words(words: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not words["current"] and not words["reference"]:
        return ""
    return _sides(words, lambda one: f"{escape(str(one['term']))}")


def _examples(examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not examples["current"] and not examples["reference"]:
        return ""
    return _sides(examples, _example)


def _example(one: Mapping[str, Any]) -> str:
    answer = f"<br><span class='small soft'>{escape(one['answer'])}</span>" if one["answer"] else ""
    return f"<span class='prompt'>{escape(one['prompt'] or '')}</span>{answer}"


def _sides(found: Mapping[str, Sequence[Any]], tell: Any) -> str:
    cards = []
    for side, title in (("current", "Window"), ("reference", "Reference")):
        items = "".join(f"<li>{tell(one)}</li>" for one in found[side])
        cards.append(f'<div class="card"><b>{title}</b><ul>{items}</ul></div>')
    return f'<div class="two">{"".join(cards)}</div>'


def _slots(slots: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> str:
    rows = "".join(_slot(one) for one in slots)
    table = (
        f'<div class="wide"><table><tr><th>Slot</th>{_SLOT_HEADS}<th>New values</th></tr>'
        f"{rows}</table></div>"
        if rows
        else ""
    )
    broken = [f"unknown slot {name}: {count} rows" for name, count in schema["unknown_slots"]]
    broken += [f"not listed, {name}: {count} rows" for name, count in schema["values_not_listed"]]
    return table + _list(broken)


def _slot(one: Mapping[str, Any]) -> str:
    pairs = (one["asked"], one["not_in_training"], one["with_new_words"])
    shares = [pair[side] for pair in pairs for side in ("current", "reference")]
    cells = "".join(f'<td class="number">{_percent(share)}</td>' for share in shares)
    values = ", ".join(f"{value} ({count})" for value, count in one["new_values"])
    return f"<tr><td>{escape(one['slot'])}</td>{cells}<td>{escape(values)}</td></tr>"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _calibration(report: Mapping[str, Any]) -> str:
    found = report["calibration"]
    if found["not_run"]:
        return f"<p>The detectors were not tried on the reference: {escape(found['not_run'])}.</p>"
    intervals = found["intervals"]
    told = [
        f"{title} {found[name]:.0%} of {found['repeats']} draws "
        f"({100 * intervals['confidence']:g} % interval "
        f"{intervals[name][0]:.0%} to {intervals[name][1]:.0%})"
        for name, title in (
            ("false_alarm_rate", "Alarms on the reference against itself:"),
            ("power", f"Alarms with {found['shift']:.0%} of the rows shifted:"),
        )
    ]
    told.append(f"{found['n']} rows against {found['n_reference']} in each draw.")
    return _list(told)


def _not_compared(missing: Sequence[Mapping[str, Any]]) -> str:
    return _list(f"{one['name']} ({one['kind']}): {one['reason']}" for one in missing)


def _rejected(rejected: Mapping[str, Any]) -> str:
    return _list(f"{one['file']}: {one['reason']}" for one in rejected["first"])
