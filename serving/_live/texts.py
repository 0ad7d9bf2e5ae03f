"""What records keep of texts: nothing, a keyed hash, or the text, sealed where there is a key.

- off: nothing. Lengths, counts and the names of known slots are features and no texts.
- hashed: HMAC-SHA-256 under STILLHOUSE_LIVE_HASH_KEY, of the text's UTF-8. Equal texts have equal
  hashes, so repeats can be counted. A plain hash of a short prompt can be guessed by trying
  prompts; this one only by whoever has the key.
- clear: the text. With STILLHOUSE_LIVE_SEAL_KEY it is sealed before it leaves the process, so that
  neither the spool nor a Parquet file ever holds it: AES-256-GCM (NIST SP 800-38D), written as

      base64(nonce [12 bytes] | ciphertext | tag [16 bytes])

  with "<id of the record>/<name of the field>" in UTF-8 as associated data, which ties a text to
  its place. Anything that knows AES-GCM opens it; docs/live.md shows how. All other columns stay
  readable without the key. Nonces are random, so a key is good for 2^32 texts: change it by then.

A key is 32 random bytes in base64 (`openssl rand -base64 32`). Its id, in every record and in a
file's metadata, is the start of an HMAC under it, from which nothing follows about the key.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from serving.errors import StillhouseError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Policy = Literal["off", "hashed", "clear"]
KEY_BYTES = 32
NONCE_BYTES = 12
ID_CHARACTERS = 16


@dataclass(frozen=True)
class Key:
    """A secret that is never shown."""

    secret: bytes

    def __repr__(self) -> str:
        """Its id."""
        return f"Key({self.id})"

    @property
    def id(self) -> str:
        """Which key it is."""
        told = hmac.new(self.secret, b"stillhouse live key", hashlib.sha256)
        return told.hexdigest()[:ID_CHARACTERS]


def read_key(text: str, name: str) -> Key:
    """A key in base64; `name` is where it comes from.

    Raises:
        StillhouseError: it is none. The text is not shown.
    """
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != KEY_BYTES:
        raise StillhouseError(
            f"{name} must be {KEY_BYTES} bytes in base64, found something else. "
            f"Make one with: openssl rand -base64 {KEY_BYTES}"
        )
    return Key(secret)


class Keeper:
    """Turns the texts of records into what may be kept of them."""

    def __init__(self, policy: Policy, hash_key: Key | None, seal_key: Key | None) -> None:
        """Loads `cryptography` where texts are sealed.

        Raises:
            StillhouseError: a key is missing or of no use, or `cryptography` is not installed.
        """
        if (policy == "hashed") != (hash_key is not None):
            need = "needs a hash key" if policy == "hashed" else "uses no hash key"
            raise StillhouseError(
                f"the policy {policy} for live texts {need}. "
                f"Set STILLHOUSE_LIVE_HASH_KEY for the policy hashed, and only then."
            )
        if seal_key and policy != "clear":
            raise StillhouseError(
                f"the policy {policy} for live texts keeps none in clear that could be sealed. "
                f"Unset STILLHOUSE_LIVE_SEAL_KEY, or choose the policy clear."
            )
        self.policy = policy
        self._hash_key = hash_key
        self._seal = _cipher(seal_key) if seal_key else None
        key = hash_key or seal_key
        self.key_id = key.id if key else None
        self.sealed = seal_key is not None

    def keep(self, text: str | None, record_id: str, field: str) -> str | None:
        """What is kept of one text; None for nothing."""
        if text is None or self.policy == "off":
            return None
        if self._hash_key:
            return hmac.new(self._hash_key.secret, _bytes(text), hashlib.sha256).hexdigest()
        if self._seal is None:
            return text
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._seal.encrypt(nonce, _bytes(text), _place(record_id, field))
        return base64.b64encode(nonce + sealed).decode("ascii")


def open_sealed(sealed: str, key: Key, record_id: str, field: str) -> str:
    """The text that was sealed.

    Raises:
        StillhouseError: another key, another place, or changed since.
    """
    from cryptography.exceptions import InvalidTag

    try:
        whole = base64.b64decode(sealed, validate=True)
        nonce, rest = whole[:NONCE_BYTES], whole[NONCE_BYTES:]
        return _cipher(key).decrypt(nonce, rest, _place(record_id, field)).decode("utf-8")
    except (InvalidTag, ValueError):
        raise StillhouseError(
            f"record {record_id}: {field} does not open with key {key.id}: it was changed, moved "
            f"or sealed with another key. Restore the file, or name its key."
        ) from None


def _cipher(key: Key) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        raise StillhouseError(
            'texts are sealed with the package cryptography, which is missing. Run "pip install '
            'stillhouse[sealed]".'
        ) from None
    return AESGCM(key.secret)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # JSON may bring half a surrogate pair


def _place(record_id: str, field: str) -> bytes:
    return _bytes(f"{record_id}/{field}")
