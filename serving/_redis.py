"""Opens connections to a Redis, for rates, budgets and answers alike: the one way in.

Nothing connects before it is used. Over TLS a server is always checked, and no error shows the
address, which may hold a password. redis is imported here alone, and late.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serving.errors import StillhouseError

SCHEMES = ("redis", "rediss")


def open_redis(
    url: str,
    ca_file: Path | None,
    *,
    of: str,
    connections: int,
    timeout_s: float,
    step_s: float,
) -> Any:
    """A redis.asyncio.Redis with its pool, which `aclose` lets go.

    A connection that was closed while idle is made anew once; a second fault is an outage.

    Args:
        url: redis:// or, over TLS, rediss://.
        ca_file: authorities (PEM) that sign the server's certificate; None: the system's.
        of: what is kept there, such as "the cache", for errors.
        connections: most at once [count].
        timeout_s: longest wait for one of them to be free [s].
        step_s: longest that connecting, a read or a write may take [s].

    Raises:
        StillhouseError: another kind of address, a malformed one, or TLS that checks nothing.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {"ssl_ca_certs": str(ca_file)} if ca_file else {}
    try:
        _check_address(url, ca_file, of)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=step_s,
            socket_connect_timeout=step_s,
            retry=Retry(NoBackoff(), 1),
            **options,
        )
    except ValueError:
        raise StillhouseError(
            f"{of} has a malformed address of Redis: a port or a number of a database that is "
            f"none. Write redis://host:port/0, or rediss://."
        ) from None
    return Redis.from_pool(pool)


def _check_address(url: str, ca_file: Path | None, of: str) -> None:
    address = urlsplit(url)
    if address.scheme not in SCHEMES:
        raise StillhouseError(
            f"{of} is at redis://host:port or rediss://host:port, found "
            f"{address.scheme or 'nothing'}://. Change its address."
        )
    found = sorted({"ssl_cert_reqs", "ssl_check_hostname"} & parse_qs(address.query).keys())
    if ca_file and address.scheme == "redis":
        found.append("a file of authorities with redis://")
    if found:
        raise StillhouseError(
            f"{of} must be checked when it is reached over TLS, found {', '.join(found)} in its "
            f"address. Use rediss:// and name its authorities in a file."
        )
