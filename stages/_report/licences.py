"""Licences of model, data and teacher: told by params.yaml, known of what is built in, or unknown.

Nothing is guessed: what nobody named is "unknown", and the card says so at its head.
"""

from dataclasses import dataclass

from stages._params.distill import Distill
from stages._params.models import Pretrained
from stages._params.prepare import Prepare
from stages._params.report import Report
from stages._params.teacher import Teacher

UNKNOWN = "unknown"
OWN = "apache-2.0"
"""Stillhouse's, of which the built-in data's generator is a part."""


@dataclass(frozen=True)
class Choices:
    """What of params.yaml the model card tells of."""

    report: Report
    prepare: Prepare
    teacher: Teacher
    distill: Distill

    @property
    def base(self) -> Pretrained | None:
        """Of which pretrained model the student's weights are made, by tuning it or cut out of it;
        None where none is in them."""
        match self.distill.recipes["student"].init:
            case "pretrained":
                return self.distill.pretrained
            case "prune" if self.teacher.source == "pretrained":
                return self.teacher.pretrained
        return None


@dataclass(frozen=True)
class Licence:
    """A licence as the hub spells it, and where that is known from."""

    name: str
    why: str

    @property
    def known(self) -> bool:
        """Whether anybody may rely on it."""
        return self.name != UNKNOWN


@dataclass(frozen=True)
class Licences:
    """Of the three things that a student rests on."""

    model: Licence
    teacher: Licence
    data: Licence

    @property
    def warnings(self) -> list[str]:
        """A sentence for each one that nobody named."""
        sides = (("model", self.model), ("teacher", self.teacher), ("data", self.data))
        return [
            f"The licence of the {name} is unknown: {one.why}."
            for name, one in sides
            if not one.known
        ]


def find_licences(chosen: Choices) -> Licences:
    """What params.yaml says, and what is known where it says nothing."""
    teacher, data = _teacher(chosen), _data(chosen)
    return Licences(_model(chosen, teacher, data), teacher, data)


def _data(chosen: Choices) -> Licence:
    if given := chosen.report.data_licence:
        return Licence(given, "report.data_licence")
    if chosen.prepare.source == "incidents":
        return Licence(OWN, "made by a generator that is part of Stillhouse")
    return Licence(UNKNOWN, "set report.data_licence in params.yaml")


def _teacher(chosen: Choices) -> Licence:
    if given := chosen.report.teacher_licence:
        return Licence(given, "report.teacher_licence")
    if chosen.teacher.source == "scratch":
        return Licence(OWN, "trained from scratch on this data alone, by Stillhouse")
    return Licence(UNKNOWN, "set report.teacher_licence in params.yaml after reading its terms")


def _model(chosen: Choices, teacher: Licence, data: Licence) -> Licence:
    if given := chosen.report.licence:
        return Licence(given, "report.licence")
    if (teacher.name, data.name, chosen.base) == (OWN, OWN, None):
        return Licence(OWN, "that of data and teacher")
    sides = "teacher, data and the model it starts from" if chosen.base else "teacher and data"
    return Licence(UNKNOWN, f"it follows from those of {sides}; set report.licence in params.yaml")
