"""What waits is cut by length within its bounds, and whose turn it is depends on nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving._decoding import cut_batches
from serving._micro_batches import (
    Bounds,
    Waiting,
    cut,
    left_behind,
    next_batch,
    padded_cost,
    padded_share,
)

BOUNDS = Bounds(batch_tokens=60, max_rows=4)
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ITEMS = st.lists(
    st.builds(
        Waiting,
        prompt_tokens=st.integers(1, 40),
        room=st.just(10),
        arrived=st.integers(0, 50).map(float),
        setting=st.sampled_from("ab"),
        rows=st.integers(1, 2),
    ),
    max_size=25,
)


def waiting(*lengths, **fields):
    """Items with these prompts that arrived one second after the other."""
    return [Waiting(length, 10, float(n), **fields) for n, length in enumerate(lengths)]


@untimed
@given(ITEMS, st.sampled_from(["length", "first_in_first_out"]))
def test_batches_keep_to_their_bounds_share_settings_and_lose_nothing(items, order):
    batches = cut(items, BOUNDS, order)
    assert sorted(index for batch in batches for index in batch) == list(range(len(items)))
    for batch in batches:
        inside = [items[index] for index in batch]
        rows = sum(item.rows for item in inside)
        assert len(batch) == 1 or (rows <= 4 and padded_cost(inside) <= 60)
        assert len({item.setting for item in inside}) == 1


@untimed
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(20, 300))
def test_by_length_they_are_the_batches_of_the_offline_path(lengths, budget):
    bounds = Bounds(budget, max_rows=1000)
    items = waiting(*lengths)
    assert sorted(cut(items, bounds)) == sorted(cut_batches(lengths, budget, 10))


def test_neighbours_in_length_go_together_and_first_come_first_served_mixes_them():
    items = waiting(30, 2, 30, 2)
    bounds = Bounds(batch_tokens=1000, max_rows=2)
    assert cut(items, bounds) == [[0, 2], [1, 3]]
    assert cut(items, bounds, "first_in_first_out") == [[0, 1], [2, 3]]


def test_every_row_costs_the_longest_prompt_and_the_longest_answer():
    items = [Waiting(5, 10), Waiting(8, 4, rows=3)]
    assert padded_cost(items) == (1 + 3) * (8 + 10)
    assert padded_cost([]) == 0


def test_padding_is_what_the_rectangle_has_more_than_the_prompts():
    assert padded_share([5, 10, 15]) == pytest.approx(1 / 3)
    assert padded_share([7, 7]) == padded_share([]) == 0.0


@untimed
@given(ITEMS.filter(bool))
def test_the_oldest_item_is_in_the_next_batch(items):
    batch = next_batch(items, BOUNDS, now=60.0)
    assert min(item.arrived for item in items) in [items[index].arrived for index in batch]
    assert batch in cut(items, BOUNDS)


def test_nothing_waits_and_nothing_is_cut():
    assert cut([], BOUNDS) == [] == next_batch([], BOUNDS, now=0.0)


def test_a_near_deadline_goes_first_but_overtakes_the_oldest_only_once():
    oldest, urgent = Waiting(30, 10, 0.0), Waiting(2, 10, 1.0, deadline=5.0)
    bounds = Bounds(batch_tokens=50, max_rows=1)
    assert next_batch([oldest, urgent], bounds, now=4.0, urgent_s=0.5) == [0], "not near yet"
    assert next_batch([oldest, urgent], bounds, now=4.5, urgent_s=0.5) == [1]
    overtaken = Waiting(30, 10, 0.0, overtaken=1)
    assert next_batch([overtaken, urgent], bounds, now=4.5, urgent_s=0.5) == [0]


def test_of_two_near_deadlines_the_nearer_goes_first():
    items = [Waiting(2, 10, 0.0), Waiting(2, 10, 1.0, 9.0), Waiting(2, 10, 2.0, 8.0)]
    assert next_batch(items, Bounds(50, 1), now=8.0, urgent_s=2.0) == [2]


def test_who_is_older_than_someone_in_the_batch_was_left_behind():
    items = waiting(30, 2, 30, 2)
    assert left_behind(items, [1, 3]) == {0, 2}
    assert left_behind(items, [0, 1]) == set()
