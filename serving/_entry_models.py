"""What the entry needs of its models, wherever they are: in processes of their own
(serving/_model_client.py), or in its own (serving/_own_models.py)."""

from collections.abc import AsyncGenerator
from typing import Protocol

from serving._items import Answer, Item


class AskedModel(Protocol):
    """A model that answers."""

    async def answer(self, item: Item) -> Answer:
        """The answer, a refusal perhaps; cancelling it cancels the work."""
        ...

    async def is_ready(self) -> bool:
        """Whether it would answer now."""
        ...

    async def close(self) -> None:
        """Let it go."""
        ...


class StreamedModel(AskedModel, Protocol):
    """A model that answers in pieces, too."""

    def stream(self, item: Item) -> AsyncGenerator[str | Answer, None]:
        """Pieces of text and at last the answer; closing it ends the work."""
        ...
