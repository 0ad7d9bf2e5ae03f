"""Work for a caller who may leave: it ends when nobody waits for it any more."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serving._items import ServiceError


async def until_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` in this task; when the caller leaves first, cancel it and wait until it has ended.

    Raises:
        ClientDisconnect: the caller left, and the work ended by that.
        Exception: what `work` raised.
    """
    task, gone, over = asyncio.current_task(), False, False
    assert task is not None, "coroutines run in tasks"
    before = task.cancelling()

    async def watch() -> None:
        nonlocal gone
        with suppress(Exception):  # who cannot be heard any more is gone
            while (await receive())["type"] != "http.disconnect":
                pass
        if not over:
            gone = True
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if task.cancelling() == before:  # nobody cancelled this task, so it was the work alone
            raise ServiceError("unavailable", "the work was cancelled. Ask again.") from None
        if gone and task.cancelling() == before + 1:
            raise ClientDisconnect from None
        raise
    finally:
        over = True
        watcher.cancel()
        if gone:
            task.uncancel()
