"""How often the semantic cache is right to hit, and how often it is not, on planted pairs.

    python -m stages._embedder models/embedder
    E2E_DIR=/path/to/e2e python -m benchmarks.semantic_cache models/embedder
    … --write    # also benchmarks/semantic_cache.json

Each pair of prompts either asks the same or is a near miss (benchmarks/_semantic_pairs.py), and is
looked at alone: would the one be answered with the other's answer? Told are hits, false ones for
near misses, at several thresholds, by cosine alone, with the check `values` and with `words`, each
with its 95 % interval (Clopper and Pearson 1934). Then the cost: an embedding and a look-up.
"""

import argparse
import asyncio
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks._semantic_pairs import SAME, Pair, read_pairs
from benchmarks.distill_step import describe_machine
from serving._embedding.embedder import Embedder
from serving._responses.same_request import same_request
from serving._responses.semantic import SemanticCache
from serving.errors import StillhouseError
from stages import _io

RESULTS = Path(__file__).with_suffix(".json")
THRESHOLDS = (0.7, 0.8, 0.9, 0.95)
CHECKS = ("cosine", "values", "words")
ENTRIES = 2_000


def interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share, 0 to 1."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
    return round(low, 5), round(high, 5)


def measure_pairs(embedder: Embedder, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row per source and kind, and one for all near misses together."""
    texts = list({text for pair in pairs for text in (pair.one, pair.other)})
    vectors = dict(zip(texts, embedder.encode(texts), strict=True))
    groups: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for pair in pairs:
        seen = {
            "cosine": float(np.dot(vectors[pair.one], vectors[pair.other])),
            "values": float(same_request(pair.one, pair.other, "values") == "same"),
            "words": float(same_request(pair.one, pair.other, "words") == "same"),
        }
        groups[pair.source, pair.kind].append(seen)
        if pair.kind != SAME:
            groups["all", "near misses"].append(seen)
    return [_row(source, kind, seen) for (source, kind), seen in groups.items()]


def _row(source: str, kind: str, seen: Sequence[dict[str, float]]) -> dict[str, Any]:
    hits = {
        f"{check}@{threshold}": _share(
            sum(s["cosine"] >= threshold and (check == "cosine" or s[check] == 1.0) for s in seen),
            len(seen),
        )
        for check in CHECKS
        for threshold in THRESHOLDS
    }
    middle = round(median(s["cosine"] for s in seen), 4)
    return {"source": source, "kind": kind, "pairs": len(seen), "median_cosine": middle} | hits


def _share(hits: int, count: int) -> dict[str, float]:
    low, high = interval(hits, count)
    return {"hits": hits, "share": round(hits / count, 5), "low": low, "high": high}


def measure_cost(embedder: Embedder, texts: Sequence[str]) -> dict[str, float]:
    """Medians of one embedding of a short question, of a check, and of a look-up among 2,000."""
    embedding, checking = [], []
    for text in texts:
        started = time.process_time()
        embedder.encode([text])
        embedding.append(time.process_time() - started)
        started = time.process_time()
        same_request(text, text)
        checking.append(time.process_time() - started)
    return {
        "embedding_cpu_ms": round(1e3 * median(embedding), 2),
        "check_cpu_ms": round(1e3 * median(checking), 3),
        "lookup_cpu_ms": round(1e3 * asyncio.run(_lookup_s(embedder.width)), 3),
        "entries": ENTRIES,
    }


async def _lookup_s(width: int) -> float:
    """Median of a look-up without its embedding [s]; random vectors, of which none is near."""
    rng = np.random.default_rng(0)

    async def encode(texts: Sequence[str]) -> list[Any]:
        made = rng.standard_normal((len(texts), width)).astype(np.float32)
        return list(made / np.linalg.norm(made, axis=1, keepdims=True))

    cache = SemanticCache(encode, entries=ENTRIES)
    for number in range(ENTRIES):
        await cache.add("t", "scope", f"question {number}", f"{number:064d}")
    taken = []
    for number in range(100):
        started = time.process_time()
        await cache.find("t", "scope", f"another {number}")
        taken.append(time.process_time() - started)
    return median(taken)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines: share of hits by source and kind, at a threshold of 0.8 and 0.9."""
    columns = [f"{check}@{threshold}" for threshold in (0.8, 0.9) for check in CHECKS]
    lines = [f"{'share of hits, %':38}{'pairs':>6}" + "".join(f"{c:>12}" for c in columns)]
    for row in rows:
        cells = "".join(f"{100 * row[column]['share']:12.1f}" for column in columns)
        lines.append(f"{row['source'] + ': ' + row['kind']:38}{row['pairs']:6}" + cells)
    return lines


def main() -> None:
    """Measure, print a table, and write it down if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embedder", type=Path)
    parser.add_argument("--pairs", type=int, default=150, help="of each source and kind")
    parser.add_argument("--write", action="store_true", help="also benchmarks/semantic_cache.json")
    arguments = parser.parse_args()
    if not os.environ.get("E2E_DIR"):
        sys.exit("error: semantic_cache: set E2E_DIR to the folder with E2E's devset.csv.")
    try:
        embedder = Embedder(arguments.embedder)
    except StillhouseError as error:
        sys.exit(f"error: semantic_cache: {error}")
    pairs = read_pairs(arguments.pairs)
    rows = measure_pairs(embedder, pairs)
    cost = measure_cost(embedder, [p.one for p in pairs if p.source == "questions"])
    sys.stdout.write("\n".join(table(rows)) + f"\n{cost}\n")
    if arguments.write:
        _io.write_json(
            RESULTS,
            {
                "command": f"python -m benchmarks.semantic_cache models/embedder "
                f"--pairs {arguments.pairs} --write",
                "machine": describe_machine(argparse.Namespace(threads=1)),
                "embedder": embedder.digest,
                "thresholds": list(THRESHOLDS),
                "pairs": rows,
                "cost": cost,
            },
        )


if __name__ == "__main__":
    main()
