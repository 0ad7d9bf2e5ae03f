"""Server-sent events, and stop texts in what comes piece by piece."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._sse import DONE, KEEP_ALIVE, event, send_events
from serving._stop_texts import StopCutter, cut


def test_silence_is_filled_with_comments():
    async def listen():
        alive = asyncio.Event()

        async def frames():
            yield event("one")
            await alive.wait()
            yield DONE

        async def send(message):
            sent.append(message.get("body"))
            if message.get("body") == KEEP_ALIVE:
                alive.set()

        sent = []
        await send_events(send, frames(), {}, lambda error: b"", keep_alive_s=0.001)
        return sent

    sent = asyncio.run(listen())
    assert sent[:2] == [None, b"data: one\n\n"]
    assert KEEP_ALIVE in sent[2:-2]
    assert sent[-2:] == [DONE, b""]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_in_data_begin_new_lines(end):
    assert event(f"one{end}{end}zwölf") == "data: one\ndata: \ndata: zwölf\n\n".encode()


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4)), st.data())
def test_stop_texts_cut_a_stream_as_they_cut_the_whole(text, stops, data):
    whole = cut(text, stops)
    cutter, told, stopped = StopCutter(stops), "", False
    while text and not stopped:
        size = data.draw(st.integers(1, len(text)))
        piece, stopped = cutter.add(text[:size])
        told, text = told + piece, text[size:]
    assert (told + ("" if stopped else cutter.finish()), stopped) == whole
