"""Where a teacher's service is, and with what key: what is wrong is said without repeating it."""

from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from serving.errors import StillhouseError


def read_address(url: str, allow_insecure: bool) -> tuple[str | None, str]:
    """Path of a socket, if it is one, and the base of all requests.

    Raises:
        StillhouseError: no such address, or http beyond this machine. It is not repeated: a key is
            easily pasted into it.
    """
    expected = "https://host:port, http:// to this machine, or unix:///path/of/socket"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise StillhouseError(f"the teacher's address must be {expected}. Correct it.") from None
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return unquote(parts.path), "http://teacher"
    extra = parts.username or parts.query or parts.fragment or parts.path not in ("", "/")
    if parts.scheme not in ("http", "https") or not host or extra:
        raise StillhouseError(f"the teacher's address must be {expected}. Correct it.")
    if parts.scheme == "http" and not (allow_insecure or _is_loopback(host)):
        raise StillhouseError(
            f"prompts would go to {host} unencrypted. Use https, or allow it by name for a network "
            f"that you trust."
        )
    return None, f"{parts.scheme}://{parts.netloc}"


def is_elsewhere(url: str) -> bool:
    """Whether a service at `url` may be on another machine."""
    parts = urlsplit(url)
    return parts.scheme != "unix" and not _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authorization(key: str | None) -> dict[str, str]:
    """The header of a key.

    Raises:
        StillhouseError: it holds what no key has.
    """
    if key is None:
        return {}
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise StillhouseError("the teacher's key holds characters that no key has. Set it again.")
    return {"authorization": f"Bearer {key}"}
