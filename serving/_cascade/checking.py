"""What would keep a cascade from opening, found out without loading any of it."""

import os

from serving._cascade.route import Route, RungName, check_route, read_route
from serving._cascade.settings import CascadeSettings
from serving._guard.policy import GuardPolicy
from serving._live.settings import LiveSettings
from serving._service_settings import ServiceSettings
from serving.contract import digest


def check_cascade(settings: ServiceSettings) -> None:
    """Refuse what `open_cascade` would, before any process starts.

    Raises:
        StillhouseError: settings that are wrong, or a route for other models.
    """
    wanted = CascadeSettings.from_environment(os.environ)
    LiveSettings.from_environment(os.environ)
    GuardPolicy.from_text(wanted.guard)
    if wanted.cascade == "off" or (wanted.cascade == "auto" and not wanted.route.is_file()):
        return
    route = read_route(wanted.route)
    own = digest(wanted.teacher) if wanted.teacher else None
    check_route(route, digests(settings, route, own))


def digests(
    settings: ServiceSettings, route: Route, teacher_sha256: str | None
) -> dict[RungName, str]:
    """Of the models that are here; a teacher's service is checked with its every answer."""
    found: dict[RungName, str] = {
        "baseline": digest(settings.baseline),
        "student": digest(settings.student_folder()),
    }
    for rung in route.rungs:
        if rung.name == "teacher":
            found["teacher"] = teacher_sha256 or rung.model_sha256
    return found
