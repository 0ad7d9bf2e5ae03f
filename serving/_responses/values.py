"""The form of a value in every tier: a version, a checksum, its key, its age, and the payload.

    1 byte    version of this form
    16 bytes  BLAKE2b of all that follows
    24 bytes  created, kept for [s, float64]; lengths of key and payload [bytes, uint32]
    key, payload

What is truncated, altered, of another form or under another name is no value. The checksum finds
accidents; it is no signature, so whoever may write to a store may plant answers in it.
"""

import hashlib
import struct
from typing import NamedTuple

VERSION = b"\x01"
DIGEST_BYTES = 16
HEAD = struct.Struct(">ddII")
OVERHEAD_BYTES = len(VERSION) + DIGEST_BYTES + HEAD.size
MOST_SKEW_S = 60.0
"""How far ahead the clock of another machine may be."""


class Found(NamedTuple):
    """What was kept under a key."""

    payload: bytes
    created: float
    """[s, Unix time of the machine that made it]"""
    ttl_s: float
    """How long it was to be kept, from then."""

    def left_s(self, now: float, most_ttl_s: float) -> float:
        """Time that it may still be served [s], 0 or less when it is over or from the future.

        Args:
            now: Unix time [s].
            most_ttl_s: What is served today, though it may have been longer when it was kept.
        """
        age_s = now - self.created
        return min(self.ttl_s, most_ttl_s) - max(age_s, 0.0) if age_s >= -MOST_SKEW_S else 0.0


def pack(key: str, payload: bytes, created: float, ttl_s: float) -> bytes:
    """The bytes that a tier keeps."""
    name = key.encode()
    rest = HEAD.pack(created, ttl_s, len(name), len(payload)) + name + payload
    return VERSION + _digest(rest) + rest


def unpack(key: str, value: bytes) -> Found | None:
    """What `pack` was given; None where these bytes are not from it, or of another key."""
    rest = value[len(VERSION) + DIGEST_BYTES :]
    if value[:1] != VERSION or len(rest) < HEAD.size:
        return None
    if value[len(VERSION) : len(VERSION) + DIGEST_BYTES] != _digest(rest):
        return None
    created, ttl_s, name_bytes, payload_bytes = HEAD.unpack_from(rest)
    name, payload = rest[HEAD.size : HEAD.size + name_bytes], rest[HEAD.size + name_bytes :]
    if name != key.encode() or len(payload) != payload_bytes:
        return None
    return Found(payload, created, ttl_s)


def _digest(rest: bytes) -> bytes:
    return hashlib.blake2b(rest, digest_size=DIGEST_BYTES).digest()
