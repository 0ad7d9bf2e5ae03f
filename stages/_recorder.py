"""A second process that talks to the tracking server, so that a stage never has to.

Importing MLflow costs a stage 2.5 to 4 seconds and 170 to 210 MB, most of it for server parts that
no stage uses; a pipeline of twenty stages would pay that twenty times, and every peak memory
figure would be too high. So one recorder process imports MLflow once: a pipeline starts one for all
its stages, a stage run on its own starts its own and works on while it loads.

A stage reaches the recorder through a Unix socket in a private folder: one JSON message per
request, answered in order. Requests are sent ahead without waiting for the answers. A connection
that breaks off without a goodbye (a killed process) ends its run as failed; a recorder that hangs
or dies costs the stage at most `ANSWER_SECONDS`.

This module moves messages and knows nothing of MLflow; stages/_tracking gives them a meaning.
"""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Message = dict[str, Any]

# Creating a database on a slow disk takes some 20 s; retries against a dead server take about 40 s.
ANSWER_SECONDS = 120.0
# How long a recorder may take to write down the last runs and end, once nobody needs it any more.
GOODBYE_SECONDS = 10.0


class RecorderError(Exception):
    """The recorder or the server behind it failed; the message says how, in one line."""


class Recorder(NamedTuple):
    """A running recorder process and the socket it listens on."""

    process: "subprocess.Popen[bytes]"
    address: str


class Conversation(Protocol):
    """What the recorder does for one caller."""

    def answer(self, request: Message) -> Message:
        """Do what `request` asks; whatever is raised is told to the caller."""

    def hang_up(self) -> None:
        """The caller is gone; clean up what it left open."""


class Line:
    """The stage's end of a connection to a recorder."""

    def __init__(self, address: str) -> None:
        """Connect; raises OSError if nobody listens at `address`."""
        connecting = socket.socket(socket.AF_UNIX)
        connecting.connect(address)
        # A recorder stuck in a dead server's retries must not block a stage that keeps logging.
        limit = struct.pack("ll", int(ANSWER_SECONDS), 0)
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._connection = Connection(connecting.detach())
        self._unanswered = 0
        self.answers: Message = {}

    def send(self, request: Message) -> None:
        """Send `request` ahead; raises RecorderError if it, or an earlier one, failed."""
        try:
            self._connection.send_bytes(json.dumps(request).encode())
            self._unanswered += 1
            while self._unanswered and self._connection.poll(0):
                self._receive()
        except OSError as error:
            raise RecorderError(f"the recorder is gone ({error})") from None

    def wait(self, seconds: float = ANSWER_SECONDS) -> Message:
        """Wait until all is answered and return what the answers said; raises RecorderError."""
        until = time.monotonic() + seconds
        while self._unanswered:
            if not self._connection.poll(max(0.0, until - time.monotonic())):
                raise RecorderError(f"no answer within {seconds:.0f} s")
            self._receive()
        return self.answers

    def _receive(self) -> None:
        try:
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise RecorderError("the recorder ended early") from None
        self._unanswered -= 1
        if "error" in answer:
            raise RecorderError(answer["error"])
        self.answers.update(answer)

    def close(self) -> None:
        """Hang up; a run that was not closed before is then recorded as failed."""
        self._connection.close()


def start_recorder(root: Path) -> Recorder:
    """Start a recorder for the project in `root`; it answers as soon as it has loaded."""
    address = str(Path(tempfile.mkdtemp(prefix="stillhouse-")) / "recorder")
    source = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        process = subprocess.Popen(  # noqa: S603 - nobody's input
            [sys.executable, "-m", "stages._tracking", str(listening.fileno()), str(root)],
            stdin=subprocess.PIPE,  # closing it, by will or by death, is what ends the recorder
            stdout=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the stage; the recorder writes it down
            env={**os.environ, "PYTHONPATH": path},
        )
    return Recorder(process, address)


def stop_recorder(recorder: Recorder) -> None:
    """Let the recorder write what it has and end.

    One that takes longer than `GOODBYE_SECONDS` (a stage that outlived its pipeline still talks to
    it, or a server hangs) is left to end by itself, which it does after its last conversation.
    """
    if recorder.process.stdin:
        with suppress(OSError):
            recorder.process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        recorder.process.wait(GOODBYE_SECONDS)
    shutil.rmtree(Path(recorder.address).parent, ignore_errors=True)


def serve(listening: socket.socket, conversation: Callable[[], Conversation]) -> None:
    """Attend to every caller in a thread of its own until the owner and all callers are gone."""
    talks: list[threading.Thread] = []
    threading.Thread(target=_accept, args=(listening, conversation, talks), daemon=True).start()
    sys.stdin.buffer.read()  # returns when the owner closes its end, by will or by death
    for talk in talks:
        talk.join()


def _accept(
    listening: socket.socket,
    conversation: Callable[[], Conversation],
    talks: list[threading.Thread],
) -> None:
    while True:
        caller = Connection(listening.accept()[0].detach())
        talks.append(threading.Thread(target=_attend, args=(caller, conversation()), daemon=True))
        talks[-1].start()


def _attend(caller: "Connection[Any, Any]", conversation: Conversation) -> None:
    with caller, suppress(EOFError, OSError):  # the caller ended, by will or by death
        while True:
            answer = _answer(conversation, json.loads(caller.recv_bytes()))
            caller.send_bytes(json.dumps(answer).encode())
    with suppress(Exception):  # nobody is left to be told
        conversation.hang_up()


def _answer(conversation: Conversation, request: Message) -> Message:
    try:
        return conversation.answer(request)
    except Exception as error:  # whatever it is, the stage is told and goes on without tracking
        return {"error": one_line(error)}


# Of user:password@ in an address, as MLFLOW_TRACKING_URI may have it.
PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/@]*@")


def one_line(error: BaseException) -> str:
    """What went wrong in one line of at most 300 characters, without the passwords of addresses."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = PASSWORD.sub(r"\1***@", text)
    return text if len(text) <= 300 else f"{text[:299]}…"
