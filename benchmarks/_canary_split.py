"""A weighted split in front of two services: each request goes to one of them by a seeded draw.

    python -m benchmarks._canary_split --port 3100 --champion URL --challenger URL --share 0.2

It stands for the gateway of a cluster and does nothing else: a process of its own, on loopback.
"""

import argparse
import random
from collections.abc import AsyncIterator

from aiohttp import ClientError, ClientSession, TCPConnector, web

HOST = "127.0.0.1"


class Split:
    """Where each request goes."""

    def __init__(self, champion: str, challenger: str, share: float, seed: int) -> None:
        """`share` of the requests go to the challenger."""
        self.champion, self.challenger, self.share = champion, challenger, share
        self._random = random.Random(seed)
        self._session: ClientSession

    async def open(self, _: web.Application) -> AsyncIterator[None]:
        """Connections for as long as the server runs."""
        async with ClientSession(connector=TCPConnector(limit=0)) as self._session:
            yield

    async def pass_on(self, request: web.Request) -> web.Response:
        """One request, and its answer as it is."""
        chosen = self.challenger if self._random.random() < self.share else self.champion
        headers = {"content-type": request.content_type}
        url, body = f"{chosen}{request.path}", await request.read()
        try:
            async with self._session.post(url, data=body, headers=headers) as got:
                return web.Response(
                    status=got.status, body=await got.read(), content_type=got.content_type
                )
        except ClientError as error:
            return web.Response(status=502, text=type(error).__name__)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    for side in ("champion", "challenger"):
        parser.add_argument(f"--{side}", metavar="URL", required=True)
    parser.add_argument("--share", type=float, required=True, help="of the challenger")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    split = Split(told.champion, told.challenger, told.share, told.seed)
    app = web.Application()
    app.cleanup_ctx.append(split.open)
    app.router.add_post("/{path:.*}", split.pass_on)
    web.run_app(app, host=HOST, port=told.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
