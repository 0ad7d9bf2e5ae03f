"""A toy data set with records: pubs with a name, a food and whether dogs may come in."""

from pathlib import Path
from typing import Any

from stages import _io

NAMES = ["The Eagle", "The Vaults", "Blue Spice", "Green Man", "The Mill", "Wildwood"]
FOODS = ["fish", "pasta", "curry", "pies"]
SCHEMA: dict[str, Any] = {
    "name": "pubs",
    "slots": {
        "name": {"kind": "name"},
        "food": {"kind": "choice", "values": {food: [food] for food in FOODS}},
        "dogs": {
            "kind": "flag",
            "affirm": "yes",
            "refuse": "no",
            "say": ["dogs are welcome"],
            "deny": ["dogs must stay outside"],
        },
    },
    "negation": ["not", "no"],
}


def example(name: str, food: str, dogs: str) -> dict[str, Any]:
    """One prepared example with two references."""
    said = "dogs are welcome" if dogs == "yes" else "dogs must stay outside"
    slots = {"name": name, "food": food, "dogs": dogs}
    prompt = ", ".join(f"{slot}[{value}]" for slot, value in slots.items())
    references = [f"{name} serves {food} and {said}.", f"At {name} you get {food}; {said}."]
    return {"id": prompt, "prompt": prompt, "references": references, "slots": slots}


def write_prepared(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write train, validation, calibration and test with their schema; returns the examples."""
    pubs = [example(n, f, d) for n in NAMES for f in FOODS for d in ("yes", "no")]
    unseen = [example(n, f, d) for n in ("Zizzi", "Aromi") for f in FOODS for d in ("yes", "no")]
    splits = {
        "train": pubs,
        "validation": unseen[0::2],
        "calibration": unseen[1::4],
        "test": unseen[3::4],
    }
    for split, examples in splits.items():
        _io.write_jsonl(folder / f"{split}.jsonl", examples)
    _io.write_json(folder / "slots.json", SCHEMA)
    return splits
