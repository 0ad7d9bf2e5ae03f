"""What an endpoint was paid for is found again, line by line, whatever happened to the file."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from serving._endpoint_account import Usage
from serving.completion import Completion
from serving.errors import StillhouseError
from stages._labels import PAID_NAME, PaidAnswers

ONE = Completion("An answer.", 5, 3, "stop", None, -0.5, -1.0)


def example(number, **fields):
    return {"id": f"e{number}", "prompt": f"name[Pub {number}]"} | fields


def bill(count):
    """Each answer costs 5 and 3 tokens, 0.25 USD."""
    return Usage(5 * count, 3 * count, count, 0, 0, 0.25 * count, 0.5 * count)


def write(folder, numbers, asked_by="a"):
    paid = PaidAnswers(folder, asked_by)
    for count, number in enumerate(numbers, 1):
        paid.add(example(number), [ONE], lambda count=count: bill(count))
    return paid


def test_answers_and_bill_come_back(tmp_path):
    odd = replace(ONE, text="x\u2028y\x85z \ud83d “é”\n", finish_reason="length", mean_logprob=None)
    paid = write(tmp_path, range(2))
    paid.add(example(7, context="Menu"), [odd, ONE], lambda: bill(4))
    again = PaidAnswers(tmp_path, "a")
    assert again.get(example(7, context="Menu")) == [odd, ONE]
    assert again.get(example(7)) is None
    assert again.get(example(0)) == [ONE]
    assert len(again) == 3
    assert again.bill == paid.bill == bill(4)


def test_an_answer_is_found_by_its_prompt_and_not_by_a_name(tmp_path):
    write(tmp_path, [1])
    renamed = example(1) | {"id": "another", "slots": {"name": "Pub 1"}, "references": []}
    assert PaidAnswers(tmp_path, "a").get(renamed) == [ONE]


def test_what_was_asked_otherwise_is_neither_used_nor_lost(tmp_path):
    write(tmp_path, [1], "a")
    other = write(tmp_path, [2, 3], "b")
    assert other.get(example(1)) is None
    assert other.bill == bill(2)
    first = PaidAnswers(tmp_path, "a")
    assert (len(first), first.bill) == (1, bill(1))


@pytest.mark.parametrize("cut", [1, 40, 120])
def test_a_torn_last_line_costs_that_line_alone(tmp_path, cut):
    write(tmp_path, range(3))
    path = tmp_path / PAID_NAME
    path.write_bytes(path.read_bytes()[:-cut])
    again = PaidAnswers(tmp_path, "a")
    assert (len(again), again.bill) == (2 + (cut == 1), bill(2 + (cut == 1)))
    again.add(example(2), [ONE], lambda: bill(1))
    again.add(example(3), [ONE], lambda: bill(2))
    healed = PaidAnswers(tmp_path, "a")
    assert [healed.get(example(n)) for n in range(4)] == [[ONE]] * 4


@pytest.mark.parametrize(
    "line", ["1", "[]", "{}", '{"asked_by": "a"}', '{"asked_by": "a", "paid": 3}', '"\xff'], ids=str
)
def test_a_damaged_line_is_left_out(tmp_path, line):
    write(tmp_path, [0])
    path = tmp_path / PAID_NAME
    path.write_bytes(line.encode("latin-1") + b"\n" + path.read_bytes())
    again = PaidAnswers(tmp_path, "a")
    assert (len(again), again.bill) == (1, bill(1))


def test_what_was_spent_without_an_answer_is_on_the_bill_once(tmp_path):
    paid = write(tmp_path, [0])
    paid.close_bill(lambda: bill(3))
    paid.close_bill(lambda: bill(3))
    assert PaidAnswers(tmp_path, "a").bill == bill(3)
    assert paid.bill_with(lambda: bill(4)) == bill(4)
    assert len((tmp_path / PAID_NAME).read_text().splitlines()) == 2


def test_no_prompt_stands_in_the_file(tmp_path):
    write(tmp_path, [0])
    (row,) = map(json.loads, (tmp_path / PAID_NAME).read_text().splitlines())
    assert sorted(row) == ["answers", "asked_by", "id", "paid", "prompt"]
    assert "Pub" not in json.dumps(row)


def test_threads_may_add_at_once(tmp_path):
    paid = PaidAnswers(tmp_path, "a")
    spent = iter(range(1, 10_000))
    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            pool.submit(paid.add, example(number), [ONE], lambda: bill(next(spent)))
    again = PaidAnswers(tmp_path, "a")
    assert (len(again), again.bill) == (100, bill(100))


def test_a_full_disk_loses_the_line_that_did_not_fit_and_no_other(tmp_path):
    paid = write(tmp_path, [0])
    size = (tmp_path / PAID_NAME).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(StillhouseError, match=r"did not take a paid answer .*Make room"):
            paid.add(example(1), [ONE], lambda: bill(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert paid.get(example(1)) is None
    paid.add(example(2), [ONE], lambda: bill(3))
    again = PaidAnswers(tmp_path, "a")
    assert [again.get(example(n)) for n in range(3)] == [[ONE], None, [ONE]]
    assert again.bill == bill(3)
