"""The whole service in one process: for one core, little memory, no network.

    python -m serving.edge --port 3000
    curl -s localhost:3000/generate -H 'content-type: application/json' \\
         -d '{"prompt": "service[checkout-api], metric[error rate], value[7.5 %]"}'

Gate, routes, cascade, page, figures and settings are those of `bentoml serve
serving.service:Stillhouse`; both models are in the entry's process, without BentoML. What a small
machine needs otherwise is set here, unless the environment says something else. docs/deploy.md has
what it takes.
"""

import argparse
import os
from collections.abc import Mapping

from serving.errors import StillhouseError

SMALL: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",  # libraries count the machine's cores, not those that we may use
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "STILLHOUSE_MAX_BATCH_ROWS": "4",
    "STILLHOUSE_MAX_ANSWERS": "4",
    "STILLHOUSE_MAX_QUEUE_ITEMS": "32",
    "STILLHOUSE_CACHE_BYTES": str(8 << 20),
}


def main() -> None:
    """Serve until SIGTERM; a mistake ends it with one line."""
    parser = argparse.ArgumentParser(prog="python -m serving.edge", description="Serve it small.")
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback, callers need a key")
    parser.add_argument("--port", type=int, default=3000)
    arguments = parser.parse_args()
    if not 0 < arguments.port < 65536:
        parser.error(f"expected a port from 1 to 65535, found {arguments.port}")
    for name, value in SMALL.items():
        os.environ.setdefault(name, value)
    import uvicorn  # late, as all that follows: libraries read their threads when they are loaded

    from serving._edge_app import edge_app

    try:
        app = edge_app()
    except StillhouseError as error:
        raise SystemExit(str(error)) from None
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # the gate judges by the peer, whatever a header says
    )


if __name__ == "__main__":
    main()
