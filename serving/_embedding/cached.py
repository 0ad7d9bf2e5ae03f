"""Vectors that were made before, from the tiers of the answers' cache; what is new is computed.

A key is the embedder's digest and the text's hash, so another model's vectors are never met and no
text is in a store. A vector still gives much of its text away (Morris et al. 2023): it is kept for
as long, and where, answers may be. A tier's fault is a miss.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from serving._embedding.embedder import Vector
from serving._responses.tiered import Tiers

STORED = np.dtype("<f4")  # the same bytes on every machine


class Encoder(Protocol):
    """What makes vectors: serving/_embedding/embedder.py."""

    digest: str
    width: int

    def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Unit vectors of shape [width], in the order of the texts."""


class CachedEmbedder:
    """Vectors of texts, each computed once; of one event loop. The tiers stay their owner's."""

    def __init__(self, embedder: Encoder, tiers: Tiers) -> None:
        """One thread computes, beside the event loop; who waits for it may be cancelled."""
        self.digest, self.width = embedder.digest, embedder.width
        self._embedder = embedder
        self._tiers = tiers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")

    async def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Unit vectors of shape [width], in the order of the texts."""
        keys = {text: vector_key(self.digest, text) for text in texts}
        found = {text: await self._kept(key) for text, key in keys.items()}
        new = [text for text, vector in found.items() if vector is None]
        if new:
            loop = asyncio.get_running_loop()
            made = await loop.run_in_executor(self._thread, self._embedder.encode, new)
            found.update(zip(new, made, strict=True))
            for text, fresh in zip(new, made, strict=True):
                await self._tiers.put(keys[text], fresh.astype(STORED).tobytes())
        return [vector for text in texts if (vector := found[text]) is not None]

    async def _kept(self, key: str) -> Vector | None:
        hit = await self._tiers.get(key)
        if hit is None or len(hit.payload) != self.width * STORED.itemsize:
            return None
        vector = np.frombuffer(hit.payload, STORED).astype(np.float32)
        return vector if np.isfinite(vector).all() else None

    async def close(self) -> None:
        """Let the thread go, once it has done what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def vector_key(digest: str, text: str) -> str:
    """Under which key a text's vector is kept: 16 bytes of the model's digest, the text's hash."""
    text_hash = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"embedding-{digest[:32]}-{text_hash}"
