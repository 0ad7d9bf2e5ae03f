"""The label store: a teacher's answers and its distributions, bound to what made them.

`write_shard` writes the answers to one batch of prompts, `shards_done` tells after an interruption
which batches are finished, `write_index` closes the store, `read_labels` opens it for training and
refuses labels that something else made. `sort_out` turns bad answers away with a reason,
`recombine` makes a pool of prompts without references out of training records. `PaidAnswers` keeps
what an endpoint was paid for, `estimate_labels` says before what it will be.
"""

from stages._labels.cost import Estimate, estimate_labels
from stages._labels.filters import Filters, Reason, reason_to_reject, sort_out
from stages._labels.manifest import Manifest, check, hash_ids
from stages._labels.paid import PAID_NAME, PaidAnswers
from stages._labels.recombine import Pool, recombine
from stages._labels.records import Distribution, Label, Rejected, Source
from stages._labels.shards import (
    Shard,
    id_type,
    must_take,
    shard_count,
    shard_range,
    shards_done,
    write_shard,
)
from stages._labels.store import (
    Index,
    LabelStore,
    iterate_labels,
    read_index,
    read_labels,
    write_index,
)

__all__ = [
    "PAID_NAME",
    "Distribution",
    "Estimate",
    "Filters",
    "Index",
    "Label",
    "LabelStore",
    "Manifest",
    "PaidAnswers",
    "Pool",
    "Reason",
    "Rejected",
    "Shard",
    "Source",
    "check",
    "estimate_labels",
    "hash_ids",
    "id_type",
    "iterate_labels",
    "must_take",
    "read_index",
    "read_labels",
    "reason_to_reject",
    "recombine",
    "shard_count",
    "shard_range",
    "shards_done",
    "sort_out",
    "write_index",
    "write_shard",
]
