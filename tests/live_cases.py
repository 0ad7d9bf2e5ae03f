"""What the tests of live quality share: an item, a choice, records, a folder of Parquet files."""

import asyncio
import base64
from pathlib import Path
from typing import Any

from serving._items import Choice, Item
from serving._live.files import Turned, turn_spools
from serving._live.log import LiveLog
from serving._live.records import LiveRecord
from serving._live.settings import LiveSettings
from serving._live.texts import Key

PROMPT = "service[checkout-api], value[1.8 s]"
SECRET = "secret"  # stands in every text of a record
KEY = Key(bytes(range(32)))
OTHER_KEY = Key(bytes(32))
KEY_TEXT = base64.b64encode(KEY.secret).decode()
NOON = 1_795_262_400.0  # 2026-11-21T12:00:00Z


def item(request_id: str = "request-1", **fields: Any) -> Item:
    return Item(**({"id": request_id, "tenant": "acme", "prompt": PROMPT} | fields))


def choice(text: str = "checkout-api takes 1.8 s.", **fields: Any) -> Choice:
    return Choice(text=text, **({"finish_reason": "stop", "completion_tokens": 6} | fields))


def record(request_id: str = "request-1", **fields: Any) -> LiveRecord:
    asked = item(request_id, prompt=f"prompt {SECRET}", context=f"context {SECRET}")
    given = choice(f"answer {SECRET}", mean_logprob=-0.1, min_logprob=-0.5)
    known = {"time": NOON, "item": asked, "choice": given, "rung": "student"}
    return LiveRecord(**(known | {"models": {"student": "a" * 64}} | fields))


def settings(folder: Path, **fields: Any) -> LiveSettings:
    return LiveSettings(folder=folder, **fields)


def written(folder: Path, *records: LiveRecord, **fields: Any) -> list[str]:
    """Write records as the service does; returns their outcomes."""
    outcomes: list[str] = []

    async def serve() -> None:
        log = LiveLog(settings(folder, **fields), observe=outcomes.append, convert=False)
        log.start()
        for one in records:
            log.write(one)
        await log.close()

    asyncio.run(serve())
    return outcomes


def turned(folder: Path) -> Turned:
    done = turn_spools(folder, keep_days=10**5, keep_bytes=10**12)
    assert done is not None, "nobody else is at it"
    return done


def all_bytes(folder: Path) -> bytes:
    """Of every file."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
