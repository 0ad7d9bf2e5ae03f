"""What a window's content is, as one hash: the same rows in any order and batches give the same.

A row's digest is of all its columns, its id among them, each written so that no two rows read the
same; the content's is over the sorted digests. Imports pyarrow.
"""

import hashlib
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages._windows.columns import COLUMNS

DIGEST_BYTES: Final = 16
_BETWEEN, _NULL = "|", "-"  # no number is a bare minus, and texts begin with their length


def row_digests(batch: Any) -> bytes:
    """Digests of a RecordBatch's rows, `DIGEST_BYTES` each, one after the other."""
    fields = [_written(batch[name]) for name in COLUMNS.names]
    lines = pc.binary_join_element_wise(
        *fields, _BETWEEN, null_handling="replace", null_replacement=_NULL
    )
    return b"".join(
        hashlib.blake2b(line, digest_size=DIGEST_BYTES).digest()
        for line in lines.cast(pa.binary()).to_pylist()
    )


def content_sha256(digests: bytes) -> str:
    """Hexadecimal SHA-256 over the sorted digests of all rows (16 MB for 1,000,000 rows)."""
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return hashlib.sha256(halves[order].tobytes()).hexdigest()


def _written(column: Any) -> Any:
    """A column as strings that tell its values apart, bit by bit; null stays null."""
    kind = column.type
    if pa.types.is_list(kind):
        counts = pc.list_value_length(column).cast(pa.string())
        named = pc.binary_join(column, "\x1f")
        return pc.binary_join_element_wise(counts, _measured(named), ":")
    if pa.types.is_string(kind):
        return _measured(column)
    if pa.types.is_floating(kind):
        return column.view(pa.int64()).cast(pa.string())  # decimals would depend on who writes them
    return column.cast(pa.int64()).cast(pa.string())


def _measured(texts: Any) -> Any:
    """Each text behind its length, so that none can look like two."""
    lengths = pc.binary_length(texts).cast(pa.string())
    return pc.binary_join_element_wise(lengths, texts, ":")
