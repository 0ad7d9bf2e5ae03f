"""Answers to prompts that ask the same: the semantic cache beside the exact one. Off by default."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving._cascade.flow import Alike
from serving._embedding.cached import CachedEmbedder
from serving._embedding.embedder import Embedder
from serving._items import Item
from serving._responses.semantic import SemanticCache, request_scope
from serving._responses.tiered import Tiers


class AlikePrompts(Alike):
    """Looks prompts up by meaning; their answers stand in the exact cache's tiers."""

    def __init__(self, folder: Path, tiers: Tiers, scope: Mapping[str, str], threshold: float):
        """Load the embedder in `folder`.

        Args:
            folder: as `python -m stages._embedder` writes it.
            tiers: of the exact cache; vectors are kept there, too.
            scope: `models` and `template`, as the exact cache's keys have them.
            threshold: least cosine of a hit.

        Raises:
            StillhouseError: the folder holds no such model.
        """
        self._tiers, self._scope = tiers, dict(scope)
        self._embedder = CachedEmbedder(Embedder(folder), tiers)
        self._cache = SemanticCache(self._embedder.encode, threshold=threshold)

    async def find(self, item: Item) -> str | None:
        """The key of the answer to a prompt that asks the same."""
        looked = await self._cache.find(item.tenant, self._scope_of(item), item.prompt)
        return looked.key

    async def add(self, item: Item, key: str) -> None:
        """Note a prompt whose answer is kept under `key`."""
        await self._cache.add(item.tenant, self._scope_of(item), item.prompt, key)

    async def body(self, key: str) -> dict[str, Any] | None:
        """The answer that is kept under `key`; it may be gone by now."""
        hit = await self._tiers.get(key)
        if hit is None:
            return None
        body: dict[str, Any] = json.loads(hit.payload.decode("utf-8", "surrogatepass"))
        return body

    async def close(self) -> None:
        """Let its thread go."""
        await self._embedder.close()

    def _scope_of(self, item: Item) -> str:
        return request_scope(
            decoding=item.decoding,
            tenant=item.tenant,
            context=item.context,
            slots=item.slots,
            answers=item.answers,
            models=self._scope["models"],
            template=self._scope["template"],
        )
