"""Personal data and blocked content, looked for on the way in and on the way out.

A check that could not run says "not_run" and never "clean". What it finds is told as rule, kind and
place, never as text. How well it finds what was planted stands in benchmarks/guards.json.
"""

from serving._guard.findings import Finding, Guarded, State
from serving._guard.guard import Guard, GuardedItem
from serving._guard.phrases import BlockedList
from serving._guard.policy import Action, Direction, Group, GuardPolicy
from serving._guard.streaming import MaskingStream

__all__ = [
    "Action",
    "BlockedList",
    "Direction",
    "Finding",
    "Group",
    "Guard",
    "GuardPolicy",
    "Guarded",
    "GuardedItem",
    "MaskingStream",
    "State",
]
