"""The entry's part of every answer: items out, answers back, in the form that each route wants.

It is the `Backend` of the OpenAI routes and what the native endpoints call. Made empty when the
module is imported, since routes are mounted then; `open` fills it in when the process starts.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving._cascade.flow import refuse_blocked
from serving._cascade.opening import open_cascade, open_guard
from serving._cascade.settings import CascadeSettings
from serving._charging import charge, settle, used
from serving._compare import compare, cost_usd
from serving._entry_cascade import MODEL_NAME as CASCADE
from serving._entry_cascade import CascadeEntry
from serving._entry_items import Prepared, Preparer, State
from serving._entry_models import AskedModel, StreamedModel
from serving._entry_streams import StudentStreams, checked, remaining_s, within
from serving._guard import Guard
from serving._items import Answer, Item, ServiceError
from serving._keys import open_keyring
from serving._lifecycle import Lifecycle
from serving._live.uncertainty import uncertainty_of
from serving._metrics import Metrics
from serving._observing import record_of
from serving._openai_requests import Asked
from serving._openai_responses import UNCHECKED, Answered, ModelCard
from serving._openai_streams import Event
from serving._paying import Paying
from serving._service_settings import ServiceSettings
from serving._spending.budgets import Budgets, open_budgets
from serving._spending.sums import Spendings
from serving.contract import CONTRACT_NAME, digest, read_contract
from serving.errors import StillhouseError

OWNER = "stillhouse"
LOCAL = "local"
"""Tenant of this machine, where there are no keys."""
MODEL_NAME = "student"
LEARNED_FROM = 12
"""Lists that a dispatcher runs before it trusts its estimate (11), and one more [count]."""


class Entry:
    """What the entry process knows of its models."""

    settings: ServiceSettings
    student: StreamedModel
    baseline: AskedModel
    preparer: Preparer
    card: ModelCard
    guard: Guard | None = None
    """Of the student's own routes, where a policy is set; the cascade always has one."""
    cascade: CascadeEntry | None = None
    budgets: Budgets
    paying: Paying
    streams: StudentStreams
    spendings: Spendings
    keyed: bool
    """Whether callers must show a key."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        """`lifecycle` is this process's: it tells streams when their time is up."""
        self.lifecycle = lifecycle

    def open(
        self,
        settings: ServiceSettings,
        student: StreamedModel,
        baseline: AskedModel,
        metrics: Metrics,
    ) -> None:
        """Read what is needed of the student's folder; its process checks the files.

        Raises:
            StillhouseError: no folder, one that a request cannot be prepared for, or a route that
                is for other models.
        """
        folder = settings.student_folder()
        self.settings, self.student, self.baseline = settings, student, baseline
        self.preparer = Preparer(folder, read_contract(folder, check_files=False), settings)
        self.card = _card(folder)
        keyring = open_keyring(os.environ)
        self.keyed = keyring.configured
        self.budgets = open_budgets(keyring.budget_of, settings.budgets, settings.budgets_ca)
        self.paying = Paying(self.budgets, settings.usd_per_hour, settings.deadline_s)
        self.spendings = Spendings(lambda: keyring.tenants | {LOCAL})
        wanted = CascadeSettings.from_environment(os.environ)
        guard = open_guard(wanted, metrics)
        self.guard = guard if wanted.guard else None
        self.streams = StudentStreams(student, self.lifecycle, self.paying, self.guard)
        opened = open_cascade(
            settings,
            {"baseline": baseline, "student": student},
            guard,
            self.budgets,
            self.spendings,
            metrics,
        )
        if opened is not None:
            self.cascade = CascadeEntry(opened, self._prepare, OWNER, self.card.created)

    async def close(self) -> None:
        """Let the connections go."""
        if self.cascade is not None:
            await self.cascade.opened.close()
        await asyncio.gather(self.student.close(), self.baseline.close(), self.budgets.close())

    async def is_ready(self) -> bool:
        """Whether both models answer."""
        return all(await asyncio.gather(self.student.is_ready(), self.baseline.is_ready()))

    async def warm_up(self) -> None:
        """Let BentoML's dispatchers learn from lists of ours, not from the first callers'."""
        for number in range(LEARNED_FROM):
            item = Item(id=f"warm-up-{number}", prompt="warm", decoding={"max_new_tokens": 1})
            await asyncio.gather(self.student.answer(item), self.baseline.answer(item))

    def models(self, state: State) -> Sequence[ModelCard]:  # noqa: ARG002
        """The student, and the cascade where there is one, whoever asks."""
        return [self.card] if self.cascade is None else [self.card, self.cascade.card]

    async def answer(self, asked: Asked, state: State) -> Answered:
        """One answer per prompt.

        Raises:
            ServiceError: of the first prompt that was refused.
        """
        if self.cascade is not None and asked.model == CASCADE:
            return await self.cascade.answer(asked, state)
        prepared = self._guarded(await self._prepare(asked, state))
        made: list[Answer] = []
        try:
            async with self.paying.paid(prepared, made) as bill:
                answers = await self._ask_all(prepared.items, made)
                bill.known = True
        except ServiceError:
            await charge(state, sum(map(used, made)))
            raise
        await settle(state, prepared, answers)
        return Answered(
            [self._guarded_out(answer) for answer in answers],
            prepared.dropped_tokens,
            prepared.dropped_turns,
            used=self.paying.used(answers),
        )

    async def stream(self, asked: Asked, state: State) -> AsyncGenerator[Event, None]:
        """Events of all choices, mixed as they come."""
        if self.cascade is not None and asked.model == CASCADE:
            events = self.cascade.stream(asked, state)
        else:
            prepared = self._guarded(await self._prepare(asked, state))
            events = self.streams.events(asked, prepared, state)
        async with aclosing(events):
            async for one in events:
                yield one

    async def ask_cascade(self, asked: Asked, state: State) -> dict[str, Any]:
        """The native answer of the cascade to one prompt.

        Raises:
            ServiceError: unknown_model, where there is no cascade; or the cascade's own.
        """
        if self.cascade is None:
            raise ServiceError(
                "unknown_model",
                'this service has no cascade. Run "dvc repro route" to make one, or ask /generate.',
            )
        return await self.cascade.native(asked, state)

    async def generate(self, asked: Asked, state: State) -> dict[str, Any]:
        """The native answer of the student to one prompt."""
        answered = await self.answer(asked, state)
        answer = answered.answers[0]
        told = answer.model_dump(exclude={"refusal", "message"})
        told["text"] = answer.choices[0].text
        told["dropped"] = {"tokens": answered.dropped_tokens, "turns": answered.dropped_turns}
        told["cost_usd"] = cost_usd(answer, self.settings.usd_per_hour)
        uncertainty = uncertainty_of(answer.choices[0], UNCHECKED)
        told["uncertainty"] = uncertainty.as_field() if uncertainty else None
        return told

    async def ask_baseline(self, item: Item, state: State | None = None) -> dict[str, Any]:
        """The native answer of the baseline, in the time that is left to the request."""
        if self.guard is not None:
            seen = self.guard.check_item(item)
            refuse_blocked(seen.verdict)
            item = seen.item
        answer = await checked(self.baseline.answer(item), self._left_s(state or {}))
        choice = answer.choices[0]
        return {"text": self._passed(choice.text), "confidence": choice.confidence}

    async def compare(self, asked: Asked, item: Item, state: State) -> dict[str, Any]:
        """Both answers side by side; only the student's tokens are charged."""
        prepared = self._guarded(await self._prepare(asked, state))
        made: list[Answer] = []
        seen = prepared.items[0]  # masked where the guard's policy says so
        if self.guard is not None:
            texts = {"prompt": seen.prompt, "context": seen.context, "slots": seen.slots}
            item = item.model_copy(update=texts)
        student = self._ask(seen, made)
        baseline = within(self.baseline.answer(item), self._left_s(state))
        try:
            async with self.paying.paid(prepared, made) as bill:
                told = await compare(student, baseline, self.settings.usd_per_hour)
                bill.known = True
        except ServiceError:
            await charge(state, 0)
            raise
        await (settle(state, prepared, made) if made else charge(state, 0))
        for side in (told["student"], told["baseline"]):
            if self.guard is not None and side["text"] is not None:
                side["text"] = self._passed(side["text"])
        if self.cascade is not None:
            told |= await self.cascade.rungs(prepared.items[0])
        return told

    def _guarded(self, prepared: Prepared) -> Prepared:
        """The items as the guard's policy lets them pass.

        Raises:
            ServiceError: blocked, or unavailable.
        """
        if self.guard is None:
            return prepared
        items = []
        for item in prepared.items:
            seen = self.guard.check_item(item)
            refuse_blocked(seen.verdict)
            masked = seen.verdict.action == "mask"
            items.append(self.preparer.recount(seen.item) if masked else seen.item)
        return replace(prepared, items=tuple(items))

    def _guarded_out(self, answer: Answer) -> Answer:
        """An answer as the guard's policy lets it pass.

        Raises:
            ServiceError: blocked, or unavailable.
        """
        if self.guard is None:
            return answer
        choices = []
        for choice in answer.choices:
            choices.append(choice.model_copy(update={"text": self._passed(choice.text)}))
        return answer.model_copy(update={"choices": choices})

    def _passed(self, text: str) -> str:
        """A text on its way out, as the guard's policy lets it pass."""
        if self.guard is None:
            return text
        seen = self.guard.check_out(text)
        refuse_blocked(seen)
        return seen.text

    async def _prepare(self, asked: Asked, state: State) -> Prepared:
        record = record_of({"state": state})
        record.model, record.model_digest = self.card.id, self.card.fingerprint
        record.stream, record.prompt = asked.stream, asked.prompts[0]
        if admitted := state.get("admitted"):
            record.tenant, record.key_id = admitted.tenant, admitted.key_id
        return await self.preparer.prepare(asked, state)

    def _left_s(self, state: State) -> float:
        """Time for a model that is told no deadline of its own [s]."""
        left_s = remaining_s(state)
        return self.settings.deadline_s if left_s is None else left_s

    async def _ask_all(self, items: Sequence[Item], made: list[Answer]) -> Sequence[Answer]:
        """Answers in the order of their items; the first refusal ends them all."""
        if len(items) == 1:
            return [await self._ask(items[0], made)]
        tasks = [asyncio.create_task(self._ask(item, made)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, item: Item, made: list[Answer]) -> Answer:
        """An answer, which is put into `made`, too."""
        answer = await checked(self.student.answer(item), item.timeout_s)
        made.append(answer)
        return answer


def _card(folder: Path) -> ModelCard:
    path = folder / CONTRACT_NAME
    if not path.is_file():
        raise StillhouseError(f'{folder} has no {CONTRACT_NAME}. Run "dvc repro".')
    name = MODEL_NAME
    return ModelCard(name, int(path.stat().st_mtime), OWNER, digest(folder)[:12])
