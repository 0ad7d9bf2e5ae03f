"""The replayed trace and the cache of the cascade's benchmark."""

import numpy as np

from benchmarks._replay import misses, zipf_trace


def test_a_prompt_is_asked_as_often_as_its_rank_says():
    trace = zipf_trace(prompts=50, requests=100_000, exponent=1.0, seed=3)
    counts = np.sort(np.bincount(trace, minlength=50))[::-1]
    expected = 100_000 / np.arange(1, 51) / (1 / np.arange(1, 51)).sum()
    assert np.abs(counts / expected - 1.0).max() < 0.2
    assert (trace == zipf_trace(50, 100_000, 1.0, 3)).all()


def test_the_cache_forgets_what_was_used_longest_ago():
    missed = misses([1, 2, 1, 3, 1, 2], entries=2, lifetime_s=100.0, requests_per_s=1.0)
    assert missed.tolist() == [True, True, False, True, False, True]


def test_what_is_stored_ends_with_its_lifetime_however_often_it_is_used():
    missed = misses([1, 1, 1, 1], entries=2, lifetime_s=2.0, requests_per_s=1.0)
    assert missed.tolist() == [True, False, True, False]
