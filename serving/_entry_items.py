"""Requests as items for the model: window applied and tokens reserved, before there is any work.

The entry has the model's tokenizer and template and no engine, so that what cannot be answered is
refused without ever reaching the model's process.
"""

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from serving import _chat
from serving._admission import Admitted
from serving._context_window import Dropped, Fitted, Window, fit_window
from serving._items import Item, ServiceError
from serving._observing import span_of
from serving._openai_requests import Asked
from serving._prompts import PromptEncoder
from serving._service_settings import ServiceSettings
from serving.completion import Request
from serving.contract import Contract
from serving.errors import StillhouseError

State = MutableMapping[str, Any]
LONG_BYTES = 16_384
"""Longer texts take more than a few milliseconds to encode."""


@dataclass(frozen=True)
class Prepared:
    """The items of one request, one per prompt, and what its window's policy dropped."""

    items: tuple[Item, ...]
    dropped_tokens: int
    dropped_turns: int

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(item.prompt_tokens or 0 for item in self.items)


class Preparer:
    """Makes items for one model."""

    def __init__(self, folder: Path, contract: Contract, settings: ServiceSettings) -> None:
        """Load the tokenizer of `folder`.

        Raises:
            StillhouseError: it has none, or the contract lacks its limits.
        """
        try:
            longest, answer = contract.limits["max_prompt_tokens"], self._longest(contract)
        except KeyError as error:
            raise StillhouseError(
                f"{folder}: the contract lacks {error}, so this is no model that generates. "
                f"Name one in STILLHOUSE_STUDENT."
            ) from None
        # what is drafted by one model and verified by another has the verifier's tokenizer
        home = folder / "target" if contract.engine == "speculative" else folder
        self.encoder = PromptEncoder(home, contract.prompt_template)
        self.window = Window(
            settings.window_policy, min(longest, settings.max_prompt_tokens or longest)
        )
        self.max_output_tokens = min(answer, settings.max_output_tokens or answer)
        self._settings = settings

    async def prepare(self, asked: Asked, state: State) -> Prepared:
        """Items of a request, its tokens reserved and its length known.

        Raises:
            ServiceError: invalid_request, prompt_too_long, rate_limited or overloaded; then nothing
                stays reserved.
        """
        self._check_answers(asked)
        answer = self._room(asked)
        admitted: Admitted | None = state.get("admitted")
        fitted = await (
            self._reserve(asked, answer, admitted) if admitted else self._fit_all(asked, answer)
        )
        dropped = [one.dropped for one in fitted]
        items = tuple(
            _item(asked, one, number, len(fitted), answer, state)
            for number, one in enumerate(fitted)
        )
        return Prepared(items, _tokens(dropped), sum(one.turns for one in dropped))

    def recount(self, item: Item) -> Item:
        """An item whose texts were changed, with its length [tokens]."""
        ids = self.encoder.encode(Request(item.prompt, item.slots, item.context))
        return item.model_copy(update={"prompt_tokens": len(ids)})

    async def _reserve(self, asked: Asked, answer: int, admitted: Admitted) -> list[Fitted]:
        """The requests, and their tokens on the caller's account."""
        room = answer * asked.candidates * len(asked.prompts)
        await admitted.reserve_tokens(_most_tokens(asked) + room)
        try:
            fitted = await self._fit_all(asked, answer)
            await admitted.correct_tokens(sum(one.prompt_tokens for one in fitted) + room)
        except BaseException:
            await admitted.correct_tokens(0)
            raise
        return fitted

    async def _fit_all(self, asked: Asked, answer: int) -> list[Fitted]:
        """The requests; long texts are encoded beside the loop, which others wait for."""
        if _most_tokens(asked) > LONG_BYTES:
            return await asyncio.to_thread(self._fit, asked, answer)
        return self._fit(asked, answer)

    def _fit(self, asked: Asked, answer: int) -> list[Fitted]:
        parts = [self._parts(asked, prompt) for prompt in asked.prompts]
        fitted = [fit_window(one, self.encoder, self.window, answer) for one in parts]
        return [
            replace(one, dropped=self._dropped(asked, part.left_out, one.dropped))
            for part, one in zip(parts, fitted, strict=True)
        ]

    def _dropped(self, asked: Asked, left_out: _chat.LeftOut, cut: Dropped) -> Dropped:
        """What the window cut and what the template has no place for, together."""
        if left_out == _chat.LeftOut():
            return cut
        texts = [*(turn.text for turn in asked.turns), asked.context or ""]
        tokens = sum(len(self.encoder.encode_answer(text)) for text in texts)
        return Dropped(cut.turns + left_out.turns + left_out.system_messages, cut.tokens + tokens)

    def _check_answers(self, asked: Asked) -> None:
        """Refuse more rows of a batch than one request may take.

        Raises:
            ServiceError: invalid_request, naming what is too many.
        """
        counts = {
            "answers": asked.candidates,
            "decoding.answers": asked.decoding.get("answers", 1),
            "decoding.beams": asked.decoding.get("beams", 1),
        }
        for name, count in counts.items():
            if type(count) is not int or not 1 <= count <= self._settings.max_answers:
                most = self._settings.max_answers
                fault = f"{name} must be a whole number from 1 to {most}. Ask for as many."
                raise ServiceError("invalid_request", fault, parameter=name)

    def _parts(self, asked: Asked, prompt: str) -> _chat.Asked:
        template, unplaced = self.encoder.template, self._settings.unplaced
        if not asked.chat:
            return _chat.read_prompt(prompt, template, unplaced, asked.context, asked.slots)
        messages = [{"role": turn.role, "content": turn.text} for turn in asked.turns]
        messages.append({"role": "user", "content": prompt})
        return _chat.read_messages(messages, template, unplaced, asked.context, asked.slots)

    def _room(self, asked: Asked) -> int:
        """Longest answer that is asked for [tokens].

        Raises:
            ServiceError: it is longer than the model may answer.
        """
        wanted = asked.decoding.get("max_new_tokens", self.max_output_tokens)
        if type(wanted) is not int or not 1 <= wanted <= self.max_output_tokens:
            raise ServiceError(
                "invalid_request",
                f"an answer may have 1 to {self.max_output_tokens} tokens. Ask for as many.",
                parameter="max_tokens",
            )
        return wanted

    @staticmethod
    def _longest(contract: Contract) -> int:
        return int(contract.decoding["max_new_tokens"])


def _item(
    asked: Asked, fitted: Fitted, number: int, count: int, answer_tokens: int, state: State
) -> Item:
    """One prompt's item; ids of several prompts end with their number."""
    admitted: Admitted | None = state.get("admitted")
    identifier = admitted.id if admitted else uuid4().hex
    request = fitted.request
    return Item(
        id=identifier if count == 1 else f"{identifier}-{number}",
        tenant=admitted.tenant if admitted else "anonymous",
        prompt=request.prompt,
        context=request.context,
        slots=dict(request.slots) if request.slots is not None else None,
        decoding={**asked.decoding, "max_new_tokens": answer_tokens},
        answers=asked.candidates,
        timeout_s=admitted.remaining_s() if admitted else None,
        prompt_tokens=fitted.prompt_tokens,
        traceparent=span_of({"state": state}).traceparent,
    )


def _most_tokens(asked: Asked) -> int:
    """Upper bound of all prompts [tokens]: a token is a byte at least."""
    texts = [*asked.prompts, *(turn.text for turn in asked.turns)]
    shared = (asked.context or "") + "".join((asked.slots or {}).values())
    texts += [shared] * len(asked.prompts)
    return sum(len(text.encode(errors="replace")) for text in texts) + len(texts)


def _tokens(dropped: list[Dropped]) -> int:
    return sum(one.tokens for one in dropped)
