"""Which rows a window has: the best of a stream by hash or time, each once, in any order."""

import numpy as np
import pytest

from stages._windows.choosing import ROOM, Asked, Choosing, Taking, hash_ids

NO_TIMES = np.zeros(0, dtype=np.int64)


def chosen(asked, *parts):
    choosing = Choosing(asked)
    for hashes, times in parts:
        choosing.add(np.array(hashes, dtype=np.uint64), np.array(times, dtype=np.int64))
    return choosing.chosen().tolist()


def test_the_smallest_hashes_are_chosen_once_each():
    assert chosen(Asked(most=3), ([9, 2, 7, 2], [0] * 4), ([1, 7], [0, 0])) == [1, 2, 7]


def test_the_newest_are_chosen_by_their_last_time():
    parts = ([5, 6, 7], [10, 30, 20]), ([5], [40])
    assert chosen(Asked(newest=2), *parts) == [5, 6]
    assert chosen(Asked(newest=2, most=1), *parts) == [5]


def test_of_nothing_nothing_is_chosen():
    assert chosen(Asked()) == []
    taking = Taking(Asked(), np.zeros(0, dtype=np.uint64))
    found, others = taking.find(np.array([3], dtype=np.uint64), np.array([0]))
    assert (found.tolist(), others["left_out"]) == ([], 1)


def test_a_long_stream_is_held_in_bounded_memory_and_chosen_right():
    rng = np.random.default_rng(1)
    hashes = rng.permutation(10 * ROOM).astype(np.uint64)
    choosing = Choosing(Asked(most=100))
    for part in np.array_split(hashes, 50):
        choosing.add(part, np.zeros(len(part), dtype=np.int64))
        assert choosing._held <= 2 * 100 + ROOM
    assert choosing.chosen().tolist() == list(range(100))


def test_a_row_is_taken_at_most_once_and_only_where_it_was_of_use():
    hashes, times = np.array([4, 8, 4, 9], dtype=np.uint64), np.zeros(4, dtype=np.int64)
    taking = Taking(Asked(), np.array([4, 8], dtype=np.uint64))
    found, others = taking.find(hashes, times)
    assert found.tolist() == [0, 1, 2]
    assert (others["duplicates"], others["left_out"], others["outside"]) == (0, 1, 0)
    assert taking.take(hashes[[0, 2]]).tolist() == [0]
    found, others = taking.find(hashes, times)
    assert found.tolist() == [1]  # 8 was of no use, another copy may be
    assert others["duplicates"] == 2


@pytest.mark.parametrize("ids", [["a", "b"], ["", "ü", "a" * 1000]])
def test_hashes_of_ids_are_64_bits_and_differ(ids):
    hashes = hash_ids(ids)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == len(ids)
    assert hash_ids(["a"])[0] == 0x40F89E395B66422F  # BLAKE2b of 64 bits of "a"
