"""The label store: labels come back exactly, and only to the run that they belong to."""

import pickle
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from label_cases import answers, assert_equal, distribution, label, manifest, write_store

from serving.errors import StillhouseError
from stages._labels import (
    Distribution,
    Manifest,
    check,
    hash_ids,
    id_type,
    iterate_labels,
    read_labels,
    write_index,
    write_shard,
)


@pytest.mark.parametrize("lengths", [[1], [5, 1, 9, 2], [0, 3, 0], [40] * 4], ids=str)
def test_labels_of_ragged_lengths_come_back_by_row_and_in_order(tmp_path, lengths):
    plan = manifest(example_count=4)
    labels = [label(f"e{i}", tokens) for i, tokens in enumerate(lengths)]
    write_shard(tmp_path, plan, 0, labels)
    write_index(tmp_path, plan)
    store = read_labels(tmp_path, plan)
    assert len(store) == len(lengths)
    assert store.lengths().tolist() == lengths
    for row in reversed(range(len(labels))):
        assert_equal(store[row], labels[row])
    for found, wanted in zip(iterate_labels(store), labels, strict=True):
        assert_equal(found, wanted)


def test_rows_run_on_over_shards_even_over_an_empty_one(tmp_path):
    plan = manifest(example_count=14)
    for number in range(4):
        write_shard(tmp_path, plan, number, *answers(number, plan))
    write_index(tmp_path, plan)
    store = read_labels(tmp_path, plan)
    names = [f"e{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7, 12, 13)]
    assert [store[row].example_id for row in range(len(store))] == names
    assert [found.example_id for found in iterate_labels(store)] == names
    assert store.lengths().tolist() == [3, 4, 5, 6, 3, 4, 5, 6, 3, 4]
    with pytest.raises(IndexError, match="row 10 of 10"):
        store[10]


@pytest.mark.parametrize(
    ("vocab", "kind", "top_id"),
    [(1536, np.uint16, 1535), (65_536, np.uint16, 65_535), (65_537, np.uint32, 65_536)],
)
def test_ids_take_two_bytes_as_long_as_the_vocabulary_fits(tmp_path, vocab, kind, top_id):
    plan = manifest(vocab_size=vocab, example_count=1)
    wanted = label(vocab=vocab, token_ids=np.array([0, top_id, 1, 2, top_id]))
    write_shard(tmp_path, plan, 0, [wanted])
    write_index(tmp_path, plan)
    found = read_labels(tmp_path, plan)[0]
    assert id_type(vocab) is kind
    assert found.token_ids.dtype == found.distribution.topk_ids.dtype == kind
    assert_equal(found, wanted)


def test_a_store_of_texts_alone_has_no_distributions(tmp_path):
    plan = manifest(top_k=0, example_count=2)
    labels = [label("e0", k=0), label("e1", k=0, tokens=0, mean_logprob=None, text="né\n“x”")]
    write_shard(tmp_path, plan, 0, labels)
    write_index(tmp_path, plan)
    store = read_labels(tmp_path, plan)
    assert_equal(store[0], labels[0])
    assert_equal(store[1], labels[1])


def test_impossible_tokens_are_stored_as_the_floor(tmp_path):
    plan = manifest(example_count=1, top_k=2)
    logs = np.array([[0.0, -np.inf]])
    found = Distribution(np.array([[4, 5]]), logs, np.array([-np.inf]), np.array([2e-4]))
    write_shard(tmp_path, plan, 0, [label(tokens=1, k=2, distribution=found)])
    write_index(tmp_path, plan)
    stored = read_labels(tmp_path, plan)[0].distribution
    assert stored.topk_logprobs.tolist() == [[0.0, -60.0]]
    assert stored.tail_logmass.tolist() == [-60.0]
    assert stored.token_logprobs.tolist() == [0.0]


def test_a_store_goes_to_another_process_and_opens_its_files_anew(tmp_path):
    write_store(tmp_path)
    store = read_labels(tmp_path, manifest())
    first = store[0]
    assert_equal(pickle.loads(pickle.dumps(store))[0], first)
    store.close()
    assert_equal(store[0], first)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.text(st.characters(exclude_categories=["Cs"]))), max_size=6
    ),
    st.integers(1, 6),
    st.sampled_from([900, 65_536, 70_000]),
)
def test_any_labels_come_back(tmp_path_factory, rows, k, vocab):
    folder = tmp_path_factory.mktemp("labels")
    plan = manifest(top_k=k, vocab_size=vocab, example_count=1)
    labels = [label("e0", n, t, vocab, k, rank) for rank, (n, t) in enumerate(rows)]
    write_shard(folder, plan, 0, labels)
    write_index(folder, plan)
    store = read_labels(folder, plan)
    for row, found in enumerate(iterate_labels(store)):
        assert_equal(found, labels[row])
        assert_equal(store[row], labels[row])
    assert len(store) == len(labels)


@pytest.mark.parametrize(("k", "limit"), [(16, 80), (24, 115)])
def test_a_token_takes_far_less_than_200_bytes(tmp_path, k, limit):
    plan = manifest(top_k=k, example_count=64, shard_size=64)
    text = "The query time on invite-mysql is at 729 ms; we are investigating. " * 2
    labels = [label(f"{i:016d}", 35, text, k=k) for i in range(64)]
    write_shard(tmp_path, plan, 0, labels)
    totals = write_index(tmp_path, plan).totals
    # k ids and k log-probabilities, tail, actual token and its id, two bytes each, and the text
    assert 4 * k + 6 < totals["bytes_per_token"] < limit


# --- what can't be stored


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"token_ids": np.array([1, 2])}, r"shapes .*'topk_ids': \(5, 3\).*expected.*\(2, 3\)"),
        ({"token_ids": np.array([1, 2, 3, 4, 1536])}, "outside the vocabulary of 1536"),
        ({"token_ids": np.array([1, 2, 3, 4, -1])}, "outside the vocabulary of 1536"),
        ({"token_ids": np.ones((5, 1), int)}, r"shape \(5, 1\)"),
        ({"distribution": None}, "top_k is 3, but distributions are missing"),
        ({"mean_logprob": float("nan")}, "mean log-probability is nan"),
    ],
    ids=["lengths", "id-too-large", "id-negative", "two-dimensions", "no-distribution", "nan"],
)
def test_a_label_that_does_not_fit_is_refused(tmp_path, changes, told):
    with pytest.raises(StillhouseError, match=rf"'e0', rank 0, can't be stored: .*{told}"):
        write_shard(tmp_path, manifest(), 0, [label(**changes)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("topk_logprobs", np.nan, "not a number"),
        ("token_logprobs", 0.5, "above 0"),
        ("tail_logmass", 0.5, "above 0"),
        ("topk_ids", 1536, "outside the vocabulary"),
        ("tail_logmass", np.log(0.43), "instead of 1 at token 2"),
    ],
)
def test_what_is_no_distribution_is_refused(tmp_path, name, value, told):
    found = distribution(np.random.default_rng(0), 5)
    found.tail_logmass[2] = np.log(0.4)
    found.topk_logprobs[2] = np.log(0.2)
    getattr(found, name)[2] = value
    with pytest.raises(StillhouseError, match=told):
        write_shard(tmp_path, manifest(), 0, [label(distribution=found)])


# --- manifest


CHANGES = {
    "teacher_sha256": "e" * 64,
    "teacher_revision": "main",
    "tokenizer_sha256": "e" * 64,
    "template_sha256": "e" * 64,
    "prompt_sha256": "e" * 64,
    "decoding": {"beams": 4, "answers": 2},
    "top_k": 24,
    "vocab_size": 1537,
    "example_ids_sha256": "e" * 64,
    "example_count": 11,
    "data_sha256": "e" * 64,
    "filters": {"max_tokens": 3},
    "shard_size": 5,
    "schema_version": 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_of_the_manifest_binds(name):
    assert set(CHANGES) == {item.name for item in fields(Manifest)}
    other = manifest(**{name: CHANGES[name]})
    assert other.fingerprint() != manifest().fingerprint()
    with pytest.raises(StillhouseError, match=rf'{name}.*: expected .*, found .*"dvc repro label"'):
        check(manifest(), other)


def test_a_mismatch_names_each_field_that_differs_and_no_other():
    other = manifest(
        teacher_sha256="e" * 64, decoding={"beams": 4, "answers": 2, "seed": 1}, top_k=2
    )
    with pytest.raises(StillhouseError) as caught:
        check(manifest(), other)
    assert str(caught.value) == (
        "The labels were made by something else: teacher_sha256: expected aaaaaaaaaaaa…, found "
        "eeeeeeeeeeee…; decoding.beams: expected 5, found 4; decoding.seed: expected nothing, "
        'found 1; top_k: expected 3, found 2. Run "dvc repro label" to make them again.'
    )


def test_long_values_are_shown_from_where_they_differ():
    with pytest.raises(StillhouseError, match=r"expected …1…, found …2…\."):
        check(manifest(data_sha256="d" * 63 + "1"), manifest(data_sha256="d" * 63 + "2"))


def test_whatever_changes_the_fingerprint_is_told():
    other = manifest(decoding={"beams": 5.0, "answers": 2})
    assert other.fingerprint() != manifest().fingerprint()
    with pytest.raises(StillhouseError, match=r"decoding.beams: expected 5, found 5\.0"):
        check(manifest(), other)


def test_equal_manifests_pass_and_key_order_is_no_difference():
    other = manifest(decoding={"answers": 2, "beams": 5})
    check(manifest(), other)
    assert other.fingerprint() == manifest().fingerprint()


def test_ids_are_hashed_in_order_and_apart():
    assert hash_ids(["a", "b"]) != hash_ids(["b", "a"])
    assert hash_ids(["a", "b"]) != hash_ids(["ab"])


def test_training_refuses_labels_that_something_else_made(tmp_path):
    write_store(tmp_path)
    with pytest.raises(StillhouseError, match=r"tokenizer_sha256: expected eeee.*, found bbbb"):
        read_labels(tmp_path, manifest(tokenizer_sha256="e" * 64))
