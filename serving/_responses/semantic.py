"""The second cache: an answer that was given to another prompt which asks the same. Off by default.

Beside the exact cache, whose keys it holds, and never its answers. A prompt is looked up among
those of the same scope: the same tenant, models, template, decoding, context and slots. The
nearest ones with a cosine of at least the threshold are taken in turn, and the first that
`same_request` calls the same is a hit; what it cannot check is a miss. How often a hit is false is
measured by benchmarks/semantic_cache.py and told in docs/semantic_cache.md.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving._responses.keys import response_key
from serving._responses.same_request import MAX_CHARS, Strictness, same_request

Vector = NDArray[np.float32]
Encode = Callable[[Sequence[str]], Awaitable[list[Vector]]]
Outcome = Literal["hit", "far", "different", "unknown", "unavailable"]
"""far: nothing near enough; different: what was near asks something else; unknown: that could not
be checked; unavailable: there is no vector."""
CHECKED = 8  # nearest prompts that are checked; a question's reversal is often nearer than itself


@dataclass(frozen=True)
class Looked:
    """What a look-up found.

    Attributes:
        outcome: All but "hit" are misses.
        key: Of the exact cache, for the body to serve; None without a hit.
        similarity: Cosine of the prompt that was hit, or of the nearest; None where there is none.
    """

    outcome: Outcome
    key: str | None = None
    similarity: float | None = None


@dataclass
class _Entry:
    scope: str
    prompt: str
    key: str
    until: float
    row: int


@dataclass
class _Shelf:
    """Prompts of one tenant; vectors of all in one matrix, shape [rows, width]."""

    entries: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)  # by key, oldest first
    rows: list[_Entry | None] = field(default_factory=list)
    vectors: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))


class SemanticCache:
    """Prompts by meaning, in this process. Of one event loop."""

    def __init__(
        self,
        encode: Encode,
        *,
        threshold: float = 0.9,
        strictness: Strictness = "words",
        entries: int = 1_000,
        tenants: int = 20,
        ttl_s: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        encode: Unit vectors of texts, such as CachedEmbedder.encode.
        threshold: Least cosine of a hit.
        strictness: What must be equal besides (serving/_responses/same_request.py).
        entries: Most prompts of a tenant [count]; the least recently used goes first.
        tenants: Most tenants whose prompts are kept [count].
        ttl_s: How long a prompt may be hit [s]; no longer than the exact cache keeps bodies.
        clock: Tells the time [s].
        """
        self._encode, self._threshold, self._strictness = encode, threshold, strictness
        self._most_entries, self._most_tenants = entries, tenants
        self._ttl_s, self._clock = ttl_s, clock
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()

    def __len__(self) -> int:
        """Prompts that are kept, of all tenants [count]."""
        return sum(len(shelf.entries) for shelf in self._shelves.values())

    async def find(self, tenant: str, scope: str, prompt: str) -> Looked:
        """The key of an answer to a prompt that asks the same; never raises for a broken embedder.

        Args:
            tenant: Who asks.
            scope: What `request_scope` made of the rest of the request.
        """
        if len(prompt) > MAX_CHARS:
            return Looked("unknown")
        if not self._shelves.get(tenant):
            return Looked("far")
        vector = await self._vector(prompt)
        shelf = self._shelves.get(tenant)  # it may have gone while the vector was made
        if vector is None or shelf is None:
            return Looked("unavailable" if vector is None else "far")
        self._shelves.move_to_end(tenant)
        near = self._nearest(shelf, scope, vector)
        return self._check(shelf, prompt, near)

    async def add(self, tenant: str, scope: str, prompt: str, key: str) -> bool:
        """Keep a prompt whose answer is in the exact cache under `key`; whether that was possible.

        Only what could be checked later is kept.
        """
        if len(prompt) > MAX_CHARS or same_request(prompt, prompt, self._strictness) != "same":
            return False
        vector = await self._vector(prompt)
        if vector is None:
            return False
        self.forget(tenant, key)
        shelf = self._shelves.setdefault(tenant, _Shelf())
        self._shelves.move_to_end(tenant)
        if len(shelf.entries) >= self._most_entries:
            self._drop(shelf, next(iter(shelf.entries)))
        row = _free_row(shelf, len(vector), self._most_entries)
        entry = _Entry(scope, prompt, key, self._clock() + self._ttl_s, row)
        shelf.entries[key], shelf.rows[row], shelf.vectors[row] = entry, entry, vector
        while len(self._shelves) > self._most_tenants:
            self._shelves.popitem(last=False)
        return True

    def forget(self, tenant: str, key: str) -> None:
        """Drop a prompt, such as one whose answer is gone from the exact cache."""
        shelf = self._shelves.get(tenant)
        if shelf and key in shelf.entries:
            self._drop(shelf, key)

    async def _vector(self, prompt: str) -> Vector | None:
        """None where there is none: whatever is wrong with the embedder, the answer is made."""
        try:
            (vector,) = await self._encode([prompt])
        except Exception:
            return None
        return vector if vector.size and bool(np.isfinite(vector).all()) else None

    def _nearest(self, shelf: _Shelf, scope: str, vector: Vector) -> list[tuple[float, _Entry]]:
        """The nearest prompts of the scope, nearest first; what is too old goes."""
        now = self._clock()
        for key in [key for key, entry in shelf.entries.items() if entry.until <= now]:
            self._drop(shelf, key)
        if not shelf.entries:
            return []
        mine = [entry.row for entry in shelf.entries.values() if entry.scope == scope]
        cosines = (shelf.vectors @ vector)[mine]  # [entries of the scope]
        order = np.argsort(-cosines, kind="stable")[:CHECKED]
        found = [(float(cosines[place]), shelf.rows[mine[place]]) for place in order]
        return [(cosine, entry) for cosine, entry in found if entry is not None]

    def _check(self, shelf: _Shelf, prompt: str, near: list[tuple[float, _Entry]]) -> Looked:
        outcome: Outcome = "far"
        for cosine, entry in near:
            if not cosine >= self._threshold:
                break
            verdict = same_request(prompt, entry.prompt, self._strictness)
            if verdict == "same":
                shelf.entries.move_to_end(entry.key)
                return Looked("hit", entry.key, cosine)
            outcome = "unknown" if "unknown" in (verdict, outcome) else "different"
        return Looked(outcome, None, near[0][0] if near else None)

    @staticmethod
    def _drop(shelf: _Shelf, key: str) -> None:
        entry = shelf.entries.pop(key)
        shelf.rows[entry.row] = None
        shelf.vectors[entry.row] = 0.0


def request_scope(
    *,
    models: str,
    template: str,
    decoding: Mapping[str, Any],
    tenant: str,
    context: str | None = None,
    slots: Mapping[str, str] | None = None,
    answers: int = 1,
) -> str:
    """All of a request but its prompt, as a digest: what must be equal for a hit."""
    return response_key(
        models=models,
        template=template,
        decoding=decoding,
        tenant=tenant,
        prompt="",
        context=context,
        slots=slots,
        answers=answers,
    )


def _free_row(shelf: _Shelf, width: int, most: int) -> int:
    """A row without an entry; the matrix doubles where there is none."""
    if len(shelf.entries) == len(shelf.rows):
        rows = min(max(16, 2 * len(shelf.rows)), most)
        grown = np.zeros((rows, width), np.float32)
        if shelf.rows:
            grown[: len(shelf.rows)] = shelf.vectors
        shelf.vectors = grown
        shelf.rows += [None] * (rows - len(shelf.rows))
    return shelf.rows.index(None)
