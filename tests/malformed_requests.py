"""Requests that are wrong in every way there is, the same ones for the same seed.

Each is bytes on a connection of its own, because clients would mend or refuse much of it.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import NamedTuple


def words(text):
    return text.split()


MARK = "ZQX-PROMPT"  # in every prompt, so that a log that has one is found out
BODIES = {
    "/generate": {"prompt": MARK, "decoding": {"max_new_tokens": 2}},
    "/baseline": {"prompt": MARK},
    "/compare": {"prompt": MARK},
    "/v1/completions": {"model": "student", "prompt": MARK, "max_tokens": 2},
    "/v1/chat/completions": {
        "model": "student",
        "messages": [{"role": "user", "content": MARK}],
        "max_tokens": 2,
    },
}
JUNK = (None, True, -1, 0, 1.5, "", "x", [], {}, [[]], [None], {"a": {}}, "\x00", "\ud800", "🜚" * 9)
NUMBERS = ("1e999", "-1e999", "NaN", "-Infinity", "9" * 400, "1e-400", "0.1e", "0x1", "-0")
FIELDS = words("""
    n best_of temperature top_p seed stop stream stream_options user logprobs context slots
    answers decoding echo model prompt messages
""")
KINDS = words("""
    text/plain application/xml ; */* multipart/form-data application/octet-stream
    application/vnd.bentoml+pickle application/x-www-form-urlencoded json
""")
KINDS += ["", "application/json; charset=utf-99", "multipart/form-data; boundary=x", "\xff\xfe"]
METHODS = words("""
    GET PUT DELETE PATCH OPTIONS HEAD TRACE CONNECT FOO p
""")
METHODS += ["GET\t"]
PATHS = words("""
    / //generate /generate/ /generate// /../generate /%67enerate /% /%ff%00 * generate
    http://x/generate /generate?x=% /generate#a /v1 /v1/models/%2e /metrics/x /readyz/
    /docs.json /schema.json /v1/models/a/b /v1/models/%0d%0a /generate;a=b /favicon.ico
""")
PATHS += ["/v1/models/" + "a" * 5000, "/" + "a/" * 500, "/\xff\xfe"]
HEADERS = (
    "content-length: -1",
    "content-length: x",
    "content-length: 99999999999999999999",
    "content-length: 5\r\ncontent-length: 6",
    "content-length: 3, 3",
    "transfer-encoding: x",
    "transfer-encoding: chunked\r\ncontent-length: 4",
    "x-request-timeout-s: soon",
    "x-request-timeout-s: -1",
    "x-request-timeout-s: 1\r\nx-request-timeout-s: 2",
    "x-request-timeout-s: 0.000000001",
    "x-request-id: \xff",
    "x-request-id: " + "a" * 999,
    "traceparent: 00-zz-zz-zz",
    "tracestate: " + "a=b," * 99,
    "authorization: Basic \xff\xff",
    "authorization: Bearer",
    "authorization: a\r\nauthorization: b",
    "x-forwarded-for: 10.0.0.1",
    "accept: \xff;q=x",
    "accept-encoding: zip;q=9",
    "content-encoding: gzip",
    "expect: 417-no",
    "upgrade: websocket\r\nconnection: upgrade",
    "range: bytes=-",
    "cookie: " + "a=b;" * 500,
    "no colon",
    ": no name",
    " folded",
    "a b: c",
    "nul: \x00",
    "long: " + "a" * 70_000,
)


class Malformed(NamedTuple):
    """What is sent, and what kind of wrong it is."""

    kind: str
    content: bytes
    cut: bool = False
    """The sender stops in the middle, so there may be nobody to be answered."""


class Reply(NamedTuple):
    """What came back; status 0 where the connection was closed without a word."""

    status: int
    headers: dict[str, str]
    body: bytes


def malformed_requests(count: int, seed: int) -> Iterator[Malformed]:
    """So many requests, all kinds in turn."""
    rng = random.Random(seed)
    makers = (
        _types,
        _numbers,
        _bytes,
        _broken,
        _deep,
        _kind,
        _header,
        _method,
        _path,
        _cut,
        _chunks,
    )
    for number in range(count):
        path = rng.choice(tuple(BODIES))
        yield makers[number % len(makers)](rng, path)


def request(path, body, *headers, method="POST", kind="application/json", length=None):
    """One request whose connection ends with its answer."""
    size = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close"]
    lines += [f"content-type: {kind}"] if kind is not None else []
    if not any(one.startswith(("content-length", "transfer-encoding")) for one in headers):
        lines.append(f"content-length: {size}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def _types(rng, path):
    body = dict(BODIES[path])
    for name in rng.sample([*body, *FIELDS], rng.randint(1, 3)):
        body[name] = rng.choice(JUNK)
    if rng.random() < 0.1:
        body = rng.choice(JUNK)
    return Malformed("wrong types", request(path, json.dumps(body).encode()))


def _numbers(rng, path):
    name, number = rng.choice(FIELDS), rng.choice(NUMBERS)
    body = json.dumps(BODIES[path])[:-1] + f', "{name}": {number}}}'
    if rng.random() < 0.3:
        body = body.replace(": 2", f": {number}")
    return Malformed("odd numbers", request(path, body.encode()))


def _bytes(rng, path):
    body = json.dumps(BODIES[path]).encode()
    wrong = rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"\xf8\x88\x80\x80\x80"))
    at = body.index(MARK.encode()) if rng.random() < 0.8 else rng.randrange(len(body))
    content = rng.choice((b"", b"\xef\xbb\xbf", b"\xff\xfe")) + body[:at] + wrong + body[at:]
    return Malformed("no UTF-8", request(path, content))


def _broken(rng, path):
    body = bytearray(json.dumps(BODIES[path]).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body))
        body[at : at + rng.randint(0, 3)] = rng.choice(
            (b"", b'"', b"{", b"]", b",", b"\\u12", b"'")
        )
    return Malformed("no JSON", request(path, bytes(body)))


def _deep(rng, path):
    depth = rng.choice((100, 990, 5000, 100_000))
    begin, end = rng.choice((("[", "]"), ('{"a":', "}")))
    value = begin * depth + "1" + end * depth if rng.random() < 0.8 else begin * depth
    name = rng.choice(("prompt", "slots", "messages", "decoding", "stop"))
    body = f'{{"{name}": {value}}}' if rng.random() < 0.7 else value
    return Malformed("deep", request(path, body.encode()))


def _kind(rng, path):
    body = json.dumps(BODIES[path]).encode()
    return Malformed("content type", request(path, body, kind=rng.choice((None, *KINDS))))


def _header(rng, path):
    header = rng.choice(HEADERS)
    body = json.dumps(BODIES[path]).encode()
    return Malformed("header", request(path, body, header), cut="content-length: 9" in header)


def _method(rng, path):
    path = rng.choice((path, "/v1/models", "/livez", "/readyz", "/openapi.json"))
    body = json.dumps(BODIES.get(path, {})).encode()
    return Malformed("method", request(path, body, method=rng.choice(METHODS)))


def _path(rng, path):
    body = json.dumps(BODIES[path]).encode()
    odd = rng.choice(PATHS)
    return Malformed("path", request(odd, body, method=rng.choice(("POST", "GET"))))


def _cut(rng, path):
    whole = request(path, json.dumps(BODIES[path]).encode())
    return Malformed("cut short", whole[: rng.randrange(1, len(whole))], cut=True)


def _chunks(rng, path):
    body = json.dumps(BODIES[path]).encode()
    size = rng.choice((b"%x" % len(body), b"-1", b"zz", b"", b"ffffffffffffffffff", b"1"))
    content = size + b"\r\n" + body + rng.choice((b"\r\n0\r\n\r\n", b"0\r\n\r\n", b"\r\n\r\n"))
    return Malformed("chunks", request(path, content, "transfer-encoding: chunked"), cut=True)


async def send_all(port, asked, at_once, patience_s, secure=None):
    """Replies in the order of the requests, so many of them on their way at once."""
    room = asyncio.Semaphore(at_once)

    async def one(what):
        async with room, asyncio.timeout(patience_s):
            return await send(port, what, secure)

    return await asyncio.gather(*map(one, asked))


async def send(port, what, secure=None):
    """The reply to one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=secure)
    said = bytearray()
    try:
        writer.write(what.content)
        await writer.drain()
        if what.cut:
            writer.write_eof()
        while piece := await reader.read(65_536):
            said += piece
    except (ConnectionResetError, BrokenPipeError):
        pass  # it was told enough; what was said before counts
    finally:
        writer.close()
    return read_reply(bytes(said))


def read_reply(said):
    """Status, headers and body of the last reply, which follows those that say "go on"."""
    head, _, body = said.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 1"):
        return read_reply(body)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    return Reply(int(first.split()[1]) if first else 0, headers, body)
