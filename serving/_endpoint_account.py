"""The account of an endpoint: what was asked and paid, and a limit that holds before it is passed.

What a request will cost is known only when its answer is there. So the most that it may cost is set
aside before it is sent, and freed when the server has told the true count. Where it never does (an
answer without counts, a connection that broke while it was written), what was set aside counts as
spent.
"""

import math
from dataclasses import asdict, dataclass, replace
from threading import Condition

from serving.endpoint_settings import EndpointSettings, estimate_cost
from serving.errors import StillhouseError


class LimitError(StillhouseError):
    """Another request could pass the limit of what may be spent."""


@dataclass(frozen=True)
class Usage:
    """What has been asked and paid so far; two of them add up and have a difference."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    """HTTP requests sent, repeats included."""
    retries: int = 0
    """How many of them were repeats."""
    unmetered: int = 0
    """Requests that the server took without telling token counts; `cost_usd` lacks them."""
    cost_usd: float = 0.0
    """The tokens at the settings' prices."""
    seconds: float = 0.0
    """Time under way, added up over requests: more than passed where they ran at once."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(**{name: held + getattr(other, name) for name, held in asdict(self).items()})

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(**{name: held - getattr(other, name) for name, held in asdict(self).items()})


class Account:
    """What one client spends; safe to use from several threads."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings, self._changed = settings, Condition()
        self._usage, self._lost_usd = Usage(), 0.0
        self._under_way, self._under_way_usd = 0, 0.0
        self._limit_usd: float | None = None

    @property
    def usage(self) -> Usage:
        """The account as it stands; a snapshot."""
        with self._changed:
            return self._priced()

    def limit(self, usd: float) -> None:
        """From now on `begin` refuses what could lift the cost above `usd`."""
        with self._changed:
            self._limit_usd = usd

    def begin(self, most_usd: float) -> None:
        """Set aside what a request may cost at most, before it is sent.

        Waits while only what is under way leaves no room: it will cost less.

        Raises:
            LimitError: it does not fit under the limit; nothing may be sent.
        """
        with self._changed:
            while (left := self._left()) < most_usd:
                if left + self._under_way_usd < most_usd:
                    raise LimitError(
                        f"{self._priced().cost_usd:.4g} of {self._limit_usd:.4g} USD are paid, and "
                        f"the next request could pass that limit. Raise it."
                    )
                self._changed.wait()
            self._under_way += 1
            self._under_way_usd += most_usd

    def end(
        self,
        most_usd: float,
        tokens: tuple[int, int] | None,
        seconds: float,
        *,
        taken: bool,
        free: bool,
    ) -> None:
        """Enter a request that `begin` let pass.

        Args:
            tokens: of prompt and answers by the server's count, None if it did not tell.
            taken: whether the server took the request.
            free: whether nothing can have been paid for it without such a count.
        """
        prompt, completion = tokens or (0, 0)
        unmetered = int(taken and tokens is None)
        with self._changed:
            self._usage += Usage(prompt, completion, 1, 0, unmetered, seconds=seconds)
            self._under_way -= 1
            # exactly nothing in the end, or a remainder of rounding would be waited for
            self._under_way_usd = self._under_way_usd - most_usd if self._under_way else 0.0
            if tokens is None and not free:
                self._lost_usd += most_usd
            self._changed.notify_all()

    def count_retry(self) -> None:
        """Note that the next request is a repeat."""
        with self._changed:
            self._usage += Usage(retries=1)

    def _left(self) -> float:
        """What may still be set aside [USD]."""
        if self._limit_usd is None:
            return math.inf
        spent = self._priced().cost_usd + self._lost_usd + self._under_way_usd
        return self._limit_usd - spent

    def _priced(self) -> Usage:
        """The sum with its cost, from whole numbers of tokens: in no order of requests."""
        held = self._usage
        cost = estimate_cost(held.prompt_tokens, held.completion_tokens, self._settings)
        return replace(held, cost_usd=cost)
