"""A server that answers everything at once with the same: what the load generator itself can do.

python -m benchmarks.serve_load.null_server 3000
"""

import asyncio
import json
import sys
from typing import Any

from benchmarks.serve_load.wire import HOST, parse_head

BODY = json.dumps(
    {
        "choices": [{"text": "", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


class NullProtocol(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """Keep what to write to."""
        self.transport, self.read = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that has come whole."""
        self.read += data
        while b"\r\n\r\n" in self.read:
            end = self.read.index(b"\r\n\r\n") + 4
            end += int(parse_head(self.read[:end])[1].get("content-length", 0))
            if len(self.read) < end:
                return
            self.read = self.read[end:]
            self.transport.write(REPLY)


async def serve(port: int) -> None:
    """Answer until killed."""
    server = await asyncio.get_running_loop().create_server(NullProtocol, HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
