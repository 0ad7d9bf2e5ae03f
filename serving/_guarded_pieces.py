"""Pieces of streams as the guard lets them pass: each choice is an answer of its own."""

from dataclasses import replace

from serving._cascade.flow import refuse_blocked
from serving._guard import Guard
from serving._guard.streaming import MaskingStream
from serving._openai_responses import Ended, Piece
from serving._openai_streams import Event


class GuardedPieces:
    """The choices of one stream."""

    def __init__(self, guard: Guard | None) -> None:
        """None: everything passes."""
        self._guard = guard
        self._streams: dict[int, MaskingStream] = {}

    def pass_on(self, event: Event) -> list[Event]:
        """What may be sent of an event; the tail of a text is held back until its end.

        Raises:
            ServiceError: blocked; what was sent before cannot be called back.
        """
        if self._guard is None or not isinstance(event, Piece | Ended):
            return [event]
        stream = self._streams.get(event.index) or self._guard.stream_out()
        self._streams[event.index] = stream
        if isinstance(event, Piece):
            text = stream.push(event.text)
            if stream.blocked:
                stream.end()
                refuse_blocked(self._guard.note_stream(stream))
            return [replace(event, text=text)]
        rest = stream.end()
        verdict = self._guard.note_stream(stream)
        refuse_blocked(verdict)
        return [*([Piece(rest, event.index, 0)] if rest else []), event]
