"""The log of answers: takes records within the event loop, writes them beside it.

`write` only puts a record into a bounded queue. One thread applies the policy to its texts, appends
it to a spool and now and then starts the command that turns closed spools into Parquet: a process
of its own, with low priority and without the keys, so that pyarrow never loads here. A full queue,
a full disk or any fault costs records, which are counted, and never a request.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from serving._live.records import LiveRecord, row_of
from serving._live.series import RecordOutcome
from serving._live.settings import HASH_KEY, MIB, SEAL_KEY, LiveSettings
from serving._live.spool import Spool, closed_spools, size_of, spool_folder
from serving._live.texts import Keeper
from serving.errors import StillhouseError

MAX_RECORDS = 4_096
MAX_CHARACTERS = 32 * MIB
"""Of texts in the queue."""
TICK_S = 1.0
RECOUNT_S = 10.0
"""Between two looks at how much the spools take while they take too much."""
ROOT = Path(__file__).parents[2]

_log = logging.getLogger(__name__)


class LiveLog:
    """Keeps records of one process; several processes may share a folder."""

    def __init__(
        self,
        settings: LiveSettings,
        known_slots: frozenset[str] = frozenset(),
        observe: Callable[[RecordOutcome], None] = lambda _: None,
        convert: bool = True,
    ) -> None:
        """`observe` is told of every record, from the event loop or the thread.

        `known_slots` are the slot schema's; `convert`: whether Parquet files are made from here.

        Raises:
            StillhouseError: no folder, or the policy for texts and its keys do not go together.
        """
        if settings.folder is None:
            raise StillhouseError("live records have no folder. Set STILLHOUSE_LIVE_FOLDER.")
        self.folder, self._settings = settings.folder, settings
        self._keeper = Keeper(settings.texts, settings.hash_key, settings.seal_key)
        self._known, self._observe, self._convert = known_slots, observe, convert
        self._queue: deque[LiveRecord] = deque()
        self._characters = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="live-records", daemon=True)
        self._spool: Spool | None = None
        self._away = False
        self._full_until = 0.0
        self._converting: subprocess.Popen[bytes] | None = None
        self._convert_at = 0.0

    def start(self) -> None:
        """Begin to write, and to turn into Parquet what processes before this one have left."""
        self._thread.start()

    def write(self, record: LiveRecord) -> None:
        """Take a record; returns at once and never raises."""
        size = record.characters
        with self._changed:
            room = len(self._queue) < MAX_RECORDS and self._characters + size <= MAX_CHARACTERS
            if room and not self._closing:
                self._queue.append(record)
                self._characters += size
                self._changed.notify()
                return
        self._observe("queue_full")

    async def close(self, within_s: float = 5.0) -> None:
        """Write what waits and close the spool, as far as the time allows."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, within_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue and not self._closing:
                    self._changed.wait(TICK_S)
                records = list(self._queue)
                self._queue.clear()
                self._characters = 0
                closing = self._closing
            if records:
                self._append(records)
            self._roll(closing)
            if closing and not records:
                break
            self._turn_into_parquet()
        if self._converting:
            self._converting.terminate()  # what it leaves is done again
            self._converting.wait()

    def _append(self, records: Sequence[LiveRecord]) -> None:
        lines = [line for record in records if (line := self._line(record))]
        self._tell("failed", len(records) - len(lines))
        if not lines:
            return
        if self._spool is None and self._is_full():
            self._tell("spool_full", len(lines))
            return
        try:
            if self._spool is None:
                self._spool = Spool(self.folder)
            self._spool.write(b"".join(lines))
        except OSError as error:
            self._fail(error)
            self._tell("failed", len(lines))
            return
        if self._away:
            _log.info("live records are written again")
        self._away = False
        self._tell("written", len(lines))

    def _line(self, record: LiveRecord) -> bytes | None:
        """The record as JSON; None, told by the kind of the fault, where it cannot be written."""
        try:
            row = row_of(record, self._keeper, self._known)
            return json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"
        except Exception as error:
            _log.error("a live record could not be made: %s", type(error).__name__)
            return None

    def _tell(self, outcome: RecordOutcome, records: int) -> None:
        for _ in range(records):
            self._observe(outcome)

    def _fail(self, error: OSError) -> None:
        """Let the spool go, and say why once per outage."""
        if not self._away:
            _log.error("live records cannot be written and are dropped: %s", error.strerror)
        self._away = True
        self._close_spool()

    def _is_full(self) -> bool:
        now = time.monotonic()
        if now >= self._full_until:
            full = size_of(spool_folder(self.folder)) > self._settings.spool_mb * MIB
            self._full_until = now + RECOUNT_S if full else 0.0
            if full:
                _log.error("live records are dropped: the spools take all they may")
        return now < self._full_until

    def _roll(self, closing: bool) -> None:
        spool, settings = self._spool, self._settings
        if spool is None:
            return
        is_old = time.monotonic() - spool.began >= settings.roll_s
        if closing or is_old or spool.bytes >= settings.roll_mb * MIB:
            self._close_spool()

    def _close_spool(self) -> None:
        spool, self._spool = self._spool, None
        try:
            if spool:
                spool.close()
        except OSError as error:  # it is taken for an abandoned one later
            _log.error("a spool could not be closed: %s", error.strerror)

    def _turn_into_parquet(self) -> None:
        if self._converting and self._converting.poll() is not None:
            _, said = self._converting.communicate()
            if self._converting.returncode:
                _log.error("no Parquet was made: %s", said.decode(errors="replace").strip()[-500:])
            self._converting = None
        now = time.monotonic()
        if not self._convert or self._converting or now < self._convert_at:
            return
        self._convert_at = now + self._settings.roll_s
        try:
            if closed_spools(self.folder):
                self._converting = _start_command(self.folder, self._settings)
        except OSError as error:
            _log.error("no Parquet can be made: %s", error.strerror)


def _start_command(folder: Path, settings: LiveSettings) -> "subprocess.Popen[bytes]":
    """Start `python -m serving.live_files`, which needs no key and gets none."""
    environment = {k: v for k, v in os.environ.items() if k not in (HASH_KEY, SEAL_KEY)}
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)
    command = [sys.executable, "-m", "serving.live_files", str(folder)]
    command += ["--keep-days", str(settings.keep_days), "--keep-mb", str(settings.keep_mb)]
    return subprocess.Popen(  # noqa: S603
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
