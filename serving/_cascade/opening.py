"""Opens the cascade of an entry: route checked against the models, then all that stands around it.

Nothing connects yet, and what is switched off is not even loaded.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from serving._cascade.alike import AlikePrompts
from serving._cascade.checking import digests
from serving._cascade.endpoint_teacher import EndpointTeacher
from serving._cascade.flow import Alike, Flow, Parts
from serving._cascade.route import Route, RungName, check_route, read_route
from serving._cascade.running import Cascade, RungModel
from serving._cascade.settings import CascadeSettings
from serving._cascade.teacher import TeacherService
from serving._cascade.teacher_address import is_elsewhere
from serving._cascade.telling import Telling
from serving._guard import BlockedList, Guard, GuardPolicy
from serving._live.checks import AnswerChecks
from serving._live.log import LiveLog
from serving._live.series import observe_record
from serving._live.settings import LiveSettings
from serving._live.shadow import Shadow, ShadowRung
from serving._metrics import Metrics
from serving._responses.cache import ResponseCache
from serving._responses.opening import open_tiers
from serving._responses.tiered import Tiers
from serving._service_settings import ServiceSettings
from serving._spending.budgets import Budgets
from serving._spending.prices import price_of
from serving._spending.sums import Spendings
from serving.contract import Contract, read_contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema

LOG = logging.getLogger(__name__)
Teacher = TeacherService | EndpointTeacher


@dataclass
class Opened:
    """What `open_cascade` has made, and what must be closed in the end."""

    flow: Flow
    cascade: Cascade
    models: Mapping[RungName, RungModel]
    telling: Telling
    route: Route
    sha256: Mapping[RungName, str]
    teacher: Teacher | None = None
    tiers: Tiers | None = None
    alike: AlikePrompts | None = None
    live: LiveLog | None = field(default=None)

    async def close(self) -> None:
        """End what runs in the background, then let connections go."""
        await self.telling.close()
        if self.live is not None:
            await self.live.close()
        for part in (self.alike, self.tiers, self.teacher):
            if part is not None:
                await part.close()


def open_guard(settings: CascadeSettings, metrics: Metrics) -> Guard:
    """The guard as the environment wants it.

    Raises:
        StillhouseError: a policy or a list that is none, or a package that is missing.
    """
    policy = GuardPolicy.from_text(settings.guard)
    blocked = settings.guard_blocked
    presidio = None
    if settings.guard_presidio:
        from serving._guard.presidio import PresidioCheck

        presidio = PresidioCheck()
    return Guard(
        policy,
        BlockedList(blocked, leet=settings.guard_leet) if blocked else None,
        presidio,
        observe=lambda direction, seen: metrics.add("guard_total", 1, direction, seen.state),
    )


def open_cascade(
    settings: ServiceSettings,
    models: Mapping[RungName, RungModel],
    guard: Guard,
    budgets: Budgets,
    spendings: Spendings,
    metrics: Metrics,
) -> Opened | None:
    """The cascade of this service; None where there is no route, or it is switched off.

    Args:
        models: baseline and student, as the entry reaches them.

    Raises:
        StillhouseError: the route is for other models, or a part of it cannot be opened.
    """
    wanted = CascadeSettings.from_environment(os.environ)
    if wanted.cascade == "off" or (wanted.cascade == "auto" and not wanted.route.is_file()):
        return None
    route = _placed(read_route(wanted.route), wanted)
    teacher = _teacher(wanted, route)
    student = settings.student_folder()
    own = teacher.model_sha256 if isinstance(teacher, EndpointTeacher) else None
    sha256 = digests(settings, route, own)
    check_route(route, sha256)
    contract = read_contract(student, check_files=False)
    everyone: dict[RungName, RungModel] = dict(models)
    if teacher is not None:
        everyone["teacher"] = teacher
    tiers = _tiers(wanted, metrics)
    alike = None
    if wanted.semantic is not None and tiers is not None:
        scope = {"models": route.sha256, "template": contract.prompt_template}
        alike = AlikePrompts(wanted.semantic, tiers, scope, wanted.semantic_threshold)
    checks = AnswerChecks(_schema(contract))
    live, shadow = _live(route, everyone, checks, metrics)
    telling = Telling(metrics, spendings, sha256, shadow, live)
    cascade = Cascade(route, everyone, price_of(route.prices), telling.tried, checks)
    parts = Parts(
        route=route,
        cascade=cascade,
        guard=guard,
        budgets=budgets,
        checks=checks,
        template=contract.prompt_template,
        longest_s=settings.deadline_s,
        longest_answer=int(contract.decoding["max_new_tokens"]),
        cache=_cache(tiers, metrics),
        alike=alike or Alike(),
        tell=telling.given,
        spend=telling.spent,
    )
    return Opened(
        Flow(parts), cascade, everyone, telling, route, sha256, teacher, tiers, alike, live
    )


def _teacher(settings: CascadeSettings, route: Route) -> Teacher | None:
    """The teacher's client, where the route has one and the environment says where it is."""
    rung = next((rung for rung in route.rungs if rung.name == "teacher"), None)
    if settings.teacher and settings.teacher_url:
        raise StillhouseError(
            "STILLHOUSE_TEACHER and STILLHOUSE_TEACHER_URL are both set. Keep the one of the "
            "teacher that the route was made for."
        )
    if rung is None:
        return None
    if settings.teacher:
        return EndpointTeacher(settings.teacher)
    if settings.teacher_url:
        return TeacherService(
            settings.teacher_url,
            settings.teacher_key,
            model_sha256=rung.model_sha256,
            ca=settings.teacher_ca,
            allow_insecure=settings.teacher_insecure,
        )
    LOG.warning(
        "the route has a teacher, and neither STILLHOUSE_TEACHER_URL nor STILLHOUSE_TEACHER says "
        "where it is: what the other rungs are not sure of is %s",
        "not answered" if route.otherwise == "abstain" else "answered unsurely",
    )
    return None


def _placed(route: Route, settings: CascadeSettings) -> Route:
    """The route, its teacher remote where its service may be on another machine.

    The stage that wrote the route could not know where the teacher would be.
    """
    url = settings.teacher_url
    if url is None or settings.teacher_trusted or not is_elsewhere(url):
        return route
    rungs = (
        replace(rung, place="remote") if rung.name == "teacher" else rung for rung in route.rungs
    )
    return replace(route, rungs=tuple(rungs))


def _tiers(settings: CascadeSettings, metrics: Metrics) -> Tiers | None:
    if settings.cache == "off":
        return None
    return open_tiers(
        lambda tier, event: metrics.add("cache_total", 1, tier, event),
        memory_entries=settings.cache_entries,
        memory_bytes=settings.cache_bytes,
        redis_url=settings.cache_redis,
        redis_ca=settings.cache_redis_ca,
        object_url=settings.cache_objects,
        ttl_s=settings.cache_ttl_s,
        redis_timeout_s=settings.cache_redis_timeout_s,
        object_timeout_s=settings.cache_object_timeout_s,
    )


def _cache(tiers: Tiers | None, metrics: Metrics) -> ResponseCache | None:
    if tiers is None:
        return None
    return ResponseCache(tiers, lambda tier, event: metrics.add("cache_total", 1, tier, event))


def _schema(contract: Contract) -> SlotSchema | None:
    return SlotSchema.from_dict(contract.slot_schema) if contract.slot_schema else None


def _live(
    route: Route,
    models: Mapping[RungName, RungModel],
    checks: AnswerChecks,
    metrics: Metrics,
) -> tuple[LiveLog | None, Shadow | None]:
    """Records and shadows, as far as the environment wants them."""
    settings = LiveSettings.from_environment(os.environ)
    log = None
    if settings.folder is not None:
        names = frozenset(checks.schema.slots) if checks.schema else frozenset()
        log = LiveLog(settings, names, lambda outcome: observe_record(metrics, outcome))
        log.start()
    if not settings.shadow_share:
        return log, None
    rungs = [
        ShadowRung(rung.name, rung.place, models[rung.name])
        for rung in route.rungs
        if rung.name in models
    ]
    shadow = Shadow(
        rungs, checks, price_of(route.prices), settings.shadow_limits, settings.shadow_salt
    )
    return log, shadow
