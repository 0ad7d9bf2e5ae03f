"""What the slot tests share: a small incident schema with slots of every kind, and the E2E one."""

from typing import Any

from serving.slots import SlotCheck, SlotSchema
from tests.structure import ROOT, read_yaml

TIME_UNITS = {
    "ms": {"dimension": "time", "factor": 0.001, "say": ["ms", "milliseconds?"]},
    "s": {"dimension": "time", "factor": 1, "say": ["s", "secs?", "seconds?"]},
    "min": {"dimension": "time", "factor": 60, "say": ["min", "mins", "minutes?"]},
    "h": {"dimension": "time", "factor": 3600, "say": ["h", "hours?"]},
}
INCIDENTS: dict[str, Any] = {
    "name": "incidents",
    "words": {"lost": "lost|gone|wiped"},
    "slots": {
        "service": {
            "kind": "name",
            "pattern": "[a-z]{3,12}-(?:api|db)",
            "known": ["billing", "O'Hare gateway"],
            "values": {"checkout-api": ["the checkout service"]},
        },
        "region": {
            "kind": "choice",
            "values": {
                "eu-west-1": ["eu-west-1", "Ireland"],
                "eu-west-2": ["eu-west-2", "London"],
                "sa-east-1": ["São Paulo"],
            },
            "hints": {"eu-west-2": ["the capital"]},
        },
        "severity": {
            "kind": "choice",
            "same": [["high", "sev1"]],
            "values": {
                "high": ["high severity", "severe"],
                "sev1": ["sev1"],
                "low": ["low severity"],
            },
        },
        "data_loss": {
            "kind": "flag",
            "affirm": "yes",
            "refuse": "no",
            "say": ["data loss", "data (?:was|were) (?:{lost})"],
            "deny": ["no data loss", "all data is safe"],
        },
        "value": {"kind": "quantity", "units": TIME_UNITS},
        "threshold": {"kind": "quantity", "units": TIME_UNITS},
        "customers": {
            "kind": "quantity",
            "tolerance": 0.02,
            "units": {
                "%": {"dimension": "share", "factor": 1, "say": ["%", "percent"]},
                "customers": {"dimension": "people", "factor": 1, "say": ["customers?"]},
            },
            "values": {"50 %": ["half of our customers"]},
        },
        "cause": {"kind": "name"},
    },
    "negation": ["not", "n't", "no", "never", "without", "none of"],
}
SCHEMA = SlotSchema.from_dict(INCIDENTS)
E2E = SlotSchema.from_dict(read_yaml(ROOT / "configs/schemas/e2e.yaml"))


def errors(check: SlotCheck) -> list[str]:
    """Findings as short texts: "missing region", "added number 7", "wrong region London"."""
    return (
        [f"missing {f.slot}" for f in check.missing]
        + [f"added {f.slot} {f.found}" for f in check.added]
        + [f"wrong {f.slot} {f.found}" for f in check.wrong]
    )
