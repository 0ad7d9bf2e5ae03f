"""Labels to test with: small, random, and proper distributions."""

from dataclasses import asdict, replace

import numpy as np

from stages._labels import (
    Distribution,
    Filters,
    Label,
    Manifest,
    Rejected,
    hash_ids,
    shard_count,
    shard_range,
    shards_done,
    write_index,
    write_shard,
)

TOP_K = 3
ARRAYS = ("topk_ids", "topk_logprobs", "tail_logmass", "token_logprobs")


def manifest(**changes):
    """A manifest of ten prompts in three shards."""
    found = Manifest(
        teacher_sha256="a" * 64,
        teacher_revision=None,
        tokenizer_sha256="b" * 64,
        template_sha256="c" * 64,
        prompt_sha256="f" * 64,
        decoding={"beams": 5, "answers": 2},
        top_k=TOP_K,
        vocab_size=1536,
        example_ids_sha256=hash_ids(f"e{i}" for i in range(10)),
        example_count=10,
        data_sha256="d" * 64,
        filters=asdict(Filters()),
        shard_size=4,
    )
    return replace(found, **changes)


def distribution(rng, tokens, k=TOP_K, vocab=1536):
    """Random proper distributions: top k and tail add up to one."""
    ids = np.array([rng.choice(vocab, k, replace=False) for _ in range(tokens)]).reshape(tokens, k)
    shares = rng.dirichlet(np.ones(k + 1), tokens).reshape(tokens, k + 1)
    logs = np.log(np.maximum(shares, 1e-30)).astype(np.float32)
    return Distribution(ids, logs[:, :k], logs[:, k], logs[:, 0])


def label(name="e0", tokens=5, text="An answer.", vocab=1536, k=TOP_K, rank=0, **changes):
    """A label; the same arguments give the same one."""
    rng = np.random.default_rng([tokens, rank, *name.encode()])
    ids = rng.integers(0, vocab, tokens)
    found = distribution(rng, tokens, k, vocab) if k else None
    made = Label(name, text, ids, "stop", -0.25, rank, "train", found)
    return replace(made, **changes)


def reject(name, reason="empty"):
    """An answer that was turned away."""
    return Rejected(name, "", 7, "stop", 1, "pool", reason, "no text")


def answers(number, plan):
    """Labels and rejected answers of one shard; shard 2 has lost all of its answers."""
    names = [f"e{i}" for i in shard_range(plan, number)]
    if number == 2:
        return [], [reject(name, "unfinished") for name in names]
    labels = [label(name, tokens=3 + place) for place, name in enumerate(names)]
    return labels, [reject(names[0])]


def write_store(folder, plan=None):
    """Write the shards that are not done yet, then the index."""
    plan = plan or manifest()
    for number in range(shard_count(plan)):
        if number not in shards_done(folder, plan):
            write_shard(folder, plan, number, *answers(number, plan))
    return write_index(folder, plan)


def contents(folder):
    """The bytes of every file by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_equal(found, wanted):
    """Equal, floats as far as half precision keeps them."""
    for name in ("example_id", "text", "finish_reason", "mean_logprob", "rank", "source"):
        assert getattr(found, name) == getattr(wanted, name)
    assert found.token_ids.tolist() == wanted.token_ids.tolist()
    assert (found.distribution is None) == (wanted.distribution is None)
    if wanted.distribution:
        assert found.distribution.topk_ids.tolist() == wanted.distribution.topk_ids.tolist()
        for name in ARRAYS[1:]:
            stored, given_ = getattr(found.distribution, name), getattr(wanted.distribution, name)
            assert stored.dtype == np.float16
            # half precision keeps 11 bits; the floor is -60
            np.testing.assert_allclose(stored, np.maximum(given_, -60), rtol=2**-11, atol=1e-7)
