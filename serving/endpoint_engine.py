"""The `endpoint` engine: a model behind an OpenAI-compatible server, over HTTP.

The folder holds no weights, only `endpoint.json` (serving/endpoint_settings.py), so a teacher that
nobody can download is a model folder like any other. Loading sends nothing; `check` asks the server
whether it knows the model.

What a server does with what it is sent is its own business: whether the seed of a sample is
followed, and whether a special token that a prompt spells out is taken for text. A prompt that is
too long is the server's to refuse, unless the contract limits `max_prompt_chars`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Any

from serving._decoding import Decoding, retry_settings
from serving._endpoint import EndpointClient, RefusedError, StoppedError, Wait
from serving._endpoint_account import Usage
from serving._endpoint_answers import read_completions
from serving._faults import least_faulty
from serving._prompts import render
from serving._shots import fit, load_shots
from serving.completion import Completion, Request
from serving.contract import Contract
from serving.endpoint_settings import read_settings
from serving.errors import StillhouseError
from serving.slots import SlotSchema

Keep = Callable[[int, list[Completion]], None]
"""Told the index of a request and its answers, in the thread that got them."""


class EndpointPredictor:
    """A model behind a server, behind the interface that all engines share."""

    def __init__(self, folder: Path, contract: Contract, wait: Wait = Event.wait) -> None:
        """Read `folder`/endpoint.json and the key; `wait` pauses between two attempts.

        Raises:
            StillhouseError: the settings, template or decoding do not work, or the key is not set.
        """
        self.contract = contract
        self.settings = read_settings(folder)
        self.decoding = Decoding.from_dict(contract.decoding)
        if self.decoding.method == "beam" or retry_settings(contract.decoding):
            raise StillhouseError(
                f"{folder} asks for beam search, as greedy with several answers does too, which "
                f"servers do not offer. Use method greedy with one answer, or sample with "
                f"several, where the model was made."
            )
        if contract.prompt_template.count("{prompt}") != 1:
            raise StillhouseError(
                f"{folder}: the prompt template needs {{prompt}} exactly once, found "
                f"{contract.prompt_template!r}. Correct it where the model was made."
            )
        self.schema = SlotSchema.from_dict(contract.slot_schema) if contract.slot_schema else None
        self.shots = load_shots(folder, contract)
        self._client = EndpointClient(self.settings, wait)
        self._route = "/chat/completions" if self.settings.api == "chat" else "/completions"
        self._takes_n = True  # until the server shows otherwise

    @property
    def usage(self) -> Usage:
        """Tokens, requests and cost so far, of all threads."""
        return self._client.usage

    def limit_cost(self, usd: float) -> None:
        """Send nothing from now on that could lift the cost of all requests above `usd`."""
        self._client.limit_cost(usd)

    def text(self, request: Request) -> str:
        """What a request sends for a model to read: the system message and the rendered prompt."""
        prompt = render(self.contract.prompt_template, request, self._examples(request))
        return "\n".join([self.settings.system, prompt] if self.settings.system else [prompt])

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def check(self) -> str:
        """One line on whether the server knows the model.

        Raises:
            StillhouseError: the server does not answer, or has no list of models.
        """
        model, url = self.settings.model, self.settings.base_url
        listed = self._client.get("/models").get("data")
        entries = listed if isinstance(listed, list) else []
        names = [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]
        if model in names:
            return f"{url} serves {model}."
        found = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return (
            f"{url} does not list {model} (listed: {found or 'nothing'}). "
            f"Correct model in endpoint.json, unless the server answers to names it does not list."
        )

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch; where `decoding.answers` compete, the fewest faults win.

        Raises:
            StillhouseError: one request failed for good; `answer_each` keeps what was paid for.
        """
        found = dict(self.answer_each(requests))
        return [found[number] for number in range(len(requests))]

    def answer_each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """`answer`'s completions as they come, each with the index of its request.

        Raises:
            StillhouseError: one request failed for good; raised after every answer that was under
                way then has been given.
        """
        for number, answers in self.answer_many_each(requests, self.decoding.answers):
            yield number, self.best(requests[number], answers)

    def answer_many(self, requests: Sequence[Request], count: int) -> list[list[Completion]]:
        """Up to `count` answers with different texts per request.

        The likeliest is first where the server gives log-probabilities; these, and so their mean
        and minimum, leave the end token out on some servers.

        Raises:
            StillhouseError: a request failed for good, or greedy was asked for several answers.
        """
        found = dict(self.answer_many_each(requests, count))
        return [found[number] for number in range(len(requests))]

    def answer_many_each(
        self, requests: Sequence[Request], count: int, keep: Keep | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """`answer_many`'s lists as they come, each with the index of its request.

        Args:
            keep: gets every list first, those too that are under way when the caller breaks off or
                is interrupted; its error ends the run as one of the server's does.

        Raises:
            StillhouseError: as `answer_many`, after every answer that was under way then has been
                given; nothing is sent if a request cannot be.
        """
        self._check(requests, count)
        stop, failure = Event(), None
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            numbers: dict[Future[list[Completion]], int] = {
                pool.submit(self._draw_or_stop, number, request, count, stop, keep): number
                for number, request in enumerate(requests)
            }
            try:
                for future in as_completed(numbers):
                    try:
                        answers = future.result()
                    except (CancelledError, StoppedError):
                        continue
                    except Exception as error:
                        failure = failure or error
                        _cancel(stop, numbers)
                        continue
                    yield numbers[future], answers
            finally:
                _cancel(stop, numbers)
        if failure is not None:
            raise failure

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the answer as it is made; whole, where several answers compete."""
        if self.decoding.answers > 1:
            yield self.answer([request])[0].text
            return
        self._check([request], 1)
        shown = self._examples(request)
        body = self._body(request, shown, 0, 1)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        yield from self._client.stream(self._route, body, self._private(request, shown))

    def _check(self, requests: Sequence[Request], count: int) -> None:
        if count < 1 or (count > 1 and self.decoding.method == "greedy"):
            raise StillhouseError(
                f"{count} answers per request were asked of method {self.decoding.method}. "
                f'Ask for one, or use method "sample".'
            )
        most = self.contract.limits.get("max_prompt_chars")
        for number, request in enumerate(requests):
            length = len(request.prompt) + len(request.context or "")
            if not request.prompt or (most is not None and length > most):
                takes = "at least 1" if most is None else f"1 to {most}"
                raise StillhouseError(
                    f"request {number} has a prompt of {length} characters, this model takes "
                    f"{takes}. Shorten it or split it."
                )

    def _draw_or_stop(
        self, number: int, request: Request, count: int, stop: Event, keep: Keep | None
    ) -> list[Completion]:
        try:
            found = self._draw(request, count, stop)
            if keep is not None:
                keep(number, found)
            return found
        except Exception:
            stop.set()  # here, and not where the future is read, or this thread would go on asking
            raise

    def _draw(self, request: Request, count: int, stop: Event) -> list[Completion]:
        """`count` answers, in one request where the server takes `n`; equal texts count once."""
        asked = count if self._takes_n else 1
        try:
            found = self._ask(request, 0, asked, stop)
        except RefusedError:
            if asked == 1:
                raise
            found = self._ask(request, 0, 1, stop)
        if len(found) < asked:  # the server refuses n, or takes no notice of it
            self._takes_n = False
        while len(found) < count:
            found += self._ask(request, len(found), 1, stop)
        if all(completion.mean_logprob is not None for completion in found):
            found.sort(key=lambda c: -(c.mean_logprob or 0.0) * c.completion_tokens)
        different: dict[str, Completion] = {}
        for completion in found:
            different.setdefault(completion.text, completion)
        return list(different.values())

    def _ask(self, request: Request, first: int, count: int, stop: Event) -> list[Completion]:
        shown = self._examples(request)
        body, private = self._body(request, shown, first, count), self._private(request, shown)
        return self._client.post(self._route, body, read_completions, private, stop)[:count]

    def _examples(self, request: Request) -> str:
        """The examples to show, as many as the longest prompt leaves room for."""
        if self.shots is None:
            return ""
        most = self.contract.limits.get("max_prompt_chars")
        room = None if most is None else most - len(request.prompt) - len(request.context or "")
        return fit(str, self.shots.near([request])[0], room)

    def _body(self, request: Request, shown: str, first: int, count: int) -> dict[str, Any]:
        """What is sent for answers `first` to `first + count` of a request."""
        text = render(self.contract.prompt_template, request, shown)
        settings, decoding = self.settings, self.decoding
        body: dict[str, Any] = {
            "model": settings.model,
            settings.length_field: decoding.max_new_tokens,
            "temperature": 0,
        }
        if settings.api == "completions":
            body |= {"prompt": text} | ({"logprobs": 1} if settings.logprobs else {})
        else:
            system = [{"role": "system", "content": settings.system}] if settings.system else []
            body["messages"] = [*system, {"role": "user", "content": text}]
            body |= {"logprobs": True} if settings.logprobs else {}
        if decoding.method == "sample":
            seed = _request_seed(decoding.seed, request) + first
            body |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": seed}
        return body | ({"n": count} if count > 1 else {})

    def _private(self, request: Request, shown: str) -> list[str]:
        return [request.prompt, request.context or "", shown, self.settings.system or ""]

    def best(self, request: Request, answers: Sequence[Completion]) -> Completion:
        """Of answers that compete the first with the fewest faults."""
        return least_faulty(request, answers, self.schema)


def _cancel(stop: Event, futures: dict[Future[list[Completion]], int]) -> None:
    """Begin nothing more; what is under way ends with its current attempt."""
    stop.set()
    for future in futures:
        future.cancel()


def _request_seed(seed: int, request: Request) -> int:
    """A seed of the request's own: with one for all, every answer would open at the same chance."""
    text = "\0".join([str(seed), request.prompt, request.context or ""])
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:4]) >> 2
