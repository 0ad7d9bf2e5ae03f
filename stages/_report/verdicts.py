"""What was decided and what is watched: gates, cascade, detectors, drift. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages._report.overview import VERDICTS
from stages._report.reading import Facts
from stages._report.telling import interval, percent, plain, scored, short, usd, whole

Report = Mapping[str, Any]
MOST_FEATURES = 8
RATES = ("slot_error_rate", "_rise")
"""How gates on shares end; all others are ratios, points, times and sizes."""


def tell_decision(facts: Facts) -> dict[str, Any]:
    """The decision record: reason, gates of each candidate, incumbent, and what was packed.

    Raises:
        Missing: nothing was decided.
    """
    decision = facts.need("decision")
    judged = [c for c in decision["candidates"] if c["eligible"]]
    gates = list(dict.fromkeys(gate["gate"] for c in judged for gate in c["gates"]))
    return {
        "reason": decision["reason"],
        "winners": decision["winners"],
        "objectives": decision["objectives"],
        "incumbent": decision.get("incumbent"),
        "prompts": decision["prompts"],
        "gates": gates,
        "candidates": [_candidate(c, gates, decision["winners"]) for c in judged],
        "notes": [
            f"{c['name']}, {gate['gate']}: {gate['verdict']}, {gate['reason']}"
            for c in judged
            for gate in c["failed"]
        ],
        "release": _release(facts.get("release")),
    }


def _candidate(candidate: Report, gates: Sequence[str], winners: Report) -> dict[str, Any]:
    by_name = {gate["gate"]: gate for gate in candidate["gates"]}
    return {
        "name": candidate["name"],
        "device": candidate["device"],
        "wins": winners.get(candidate["device"]) == candidate["name"],
        "passed": candidate["passed"],
        "noisy": candidate["noisy"],
        "sha256": str(candidate["model_sha256"])[:12],
        "gates": [tell_gate(by_name.get(name)) for name in gates],
    }


def tell_gate(gate: Report | None) -> dict[str, str]:
    """Figure, bounds and limit of a gate, shares in per cent; None where it is off."""
    if gate is None:
        return {"verdict": "none", "value": "–", "bounds": "", "limit": ""}
    limit = gate["threshold"]
    told = _points if gate["gate"].endswith(RATES) else short
    sign = " %" if told is _points and gate["value"] is not None else ""
    bounds = "" if gate["low"] is None else f"[{told(gate['low'])}, {told(gate['high'])}]"
    return {
        "verdict": gate["verdict"],
        "value": told(gate["value"]) + sign,
        "bounds": bounds,
        "limit": "" if limit is None else f"limit {told(limit)}",
    }


def _points(share: float | None) -> str:
    """A share in per cent, without the sign."""
    return plain(None if share is None else 100 * share, 2)


def _release(release: Report | None) -> dict[str, Any] | None:
    if release is None:
        return None
    parity = release["golden_parity"]
    return {
        "tag": release["bento_tag"],
        "size": short(release["bento_bytes"] / 1e6),
        "sha256": release["bento_sha256"][:12],
        "same": parity["identical"],
        "asked": parity["requests"],
    }


def tell_cascade(facts: Facts) -> dict[str, Any]:
    """Who answers what share, with the bound on errors.

    Raises:
        Missing: there is no route.
    """
    report = facts.need("route")
    expected = report["expected"]
    return {
        "alpha": percent(report["alpha"]),
        "sure": percent(1.0 - report["delta"], 0),
        "prompts": expected["prompts"],
        "rows": [_rung(rung) for rung in report["rungs"]],
        "error": scored(expected["error_rate"], 100, unit="%"),
        "teacher_error": percent(expected["teacher_error_rate"]),
        "cost": usd(_million(expected["cost_per_1k_requests_usd"])),
        "teacher_cost": usd(_million(expected["all_teacher_cost_per_1k_requests_usd"])),
        "saved": percent(expected["saved_share"], 0),
        "quality": _cascade_quality(report.get("quality")),
    }


def _million(per_1k_usd: float | None) -> float | None:
    return None if per_1k_usd is None else 1000.0 * per_1k_usd


def _rung(rung: Report) -> dict[str, Any]:
    return {
        "name": rung["rung"],
        "left_out": rung["left_out"],
        "score": rung["score"] if rung["threshold"] is not None else "the rest",
        "threshold": short(rung["threshold"]),
        "share": percent(rung["accepted_share"]),
        "errors": f"{rung['errors']} of {rung['accepted']}",
        "bound": percent(rung["bound"]),
    }


def _cascade_quality(quality: Report | None) -> str | None:
    """BLEU of the cascade less the teacher's, on the prompts it is sure of."""
    if not quality or "bleu" not in quality:
        return None
    return f"{scored(quality['bleu']['difference'])} BLEU on {whole(quality['prompts'])} prompts"


def tell_detectors(facts: Facts) -> dict[str, Any]:
    """How well each detector tells a planted error from the clean text.

    Raises:
        Missing: they were not tried.
    """
    report = facts.need("detectors")
    found = report["detectors"]
    kinds = list(next((one["kinds"] for one in found.values() if one["status"] == "run"), {}))
    return {
        "texts": report["clean"]["texts"],
        "source": report["clean"]["source"],
        "note": report["clean"].get("note"),
        "kinds": [kind.replace("_", " ") for kind in kinds],
        "rows": [_detector(name, one, kinds) for name, one in found.items()],
    }


def _detector(name: str, found: Report, kinds: Sequence[str]) -> dict[str, Any]:
    if found["status"] != "run":
        return {"name": name, "reason": found["reason"]}
    cells = [found["kinds"].get(kind, {}) for kind in kinds]
    return {
        "name": name,
        "reason": None,
        "schema": found["needs_schema"],
        "alarms": percent(found["false_alarm_rate"]),
        "bounds": interval(_spread(found, "false_alarm_rate"), 100),
        "cells": [
            {"auroc": plain(cell.get("auroc"), 2), "share": percent(cell.get("detected"), 0)}
            for cell in cells
        ],
    }


def _spread(found: Report, name: str) -> dict[str, Any]:
    return {
        "score": found[name],
        "low": found.get(f"{name}_low"),
        "high": found.get(f"{name}_high"),
    }


def tell_drift(facts: Facts) -> dict[str, Any]:
    """The last verdict, per kind, and how far to trust it.

    Raises:
        Missing: no window was compared.
    """
    report = facts.need("drift")
    calibration, window = report["calibration"], report["rests_on"]["window"]
    return {
        "verdict": report["verdict"],
        "headline": VERDICTS.get(report["verdict"], report["verdict"]),
        "window": window["id"],
        "planted": bool(window.get("planted")),
        "kinds": {kind: VERDICTS.get(said, said) for kind, said in report["verdicts"].items()},
        "outcomes": report["verdicts"],
        "said": report["rests_on"]["said"],
        "features": report["top_features"][:MOST_FEATURES],
        "tests": len(report["detectors"]),
        "alarms": sum(bool(one["alarm"]) for one in report["detectors"]),
        "not_run": calibration.get("not_run"),
        "false_alarms": percent(calibration.get("false_alarm_rate"), 0),
        "power": percent(calibration.get("power"), 0),
        "shift": percent(calibration.get("shift"), 0),
        "repeats": calibration.get("repeats"),
        "rows": calibration.get("n"),
    }
