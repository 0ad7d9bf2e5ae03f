"""The account of an endpoint: it adds up, and its limit holds before it is passed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from endpoint_predictors import predictors
from endpoint_server import SETTINGS, Reply, answers, as_json, endpoint_server, error, told

from serving._endpoint_account import Account, LimitError, Usage
from serving.completion import Request
from serving.errors import StillhouseError


@pytest.fixture
def predictor_on(tmp_path):
    with predictors(tmp_path) as make:
        yield make


def spend(account, most, tokens, **how):
    account.begin(most)
    account.end(most, tokens, 0.5, **({"taken": True, "free": False} | how))


def test_usages_add_up_and_have_a_difference():
    one, other = Usage(5, 7, 2, 1, 0, 0.5, 1.0), Usage(2, 3, 1, 0, 1, 0.25, 0.5)
    assert one + other == Usage(7, 10, 3, 1, 1, 0.75, 1.5)
    assert (one + other) - other == one


def test_the_cost_is_that_of_the_tokens_and_no_rounding_adds_up():
    account = Account(SETTINGS)  # 1 and 10 USD per 1000 tokens
    for _ in range(1000):
        spend(account, 1.0, (3, 7))
    assert account.usage.cost_usd == (3000 * 1.0 + 7000 * 10.0) / 1000


def test_what_could_pass_the_limit_is_not_begun():
    account = Account(SETTINGS)
    account.limit(1.0)
    spend(account, 0.6, (100, 0))  # 0.1 USD in truth, so 0.5 of the 0.6 are free again
    with pytest.raises(LimitError, match=r"0\.1 of 1 USD are paid, and the next request could"):
        account.begin(0.91)
    account.begin(0.89)


def test_a_request_waits_while_only_what_is_under_way_leaves_no_room():
    account = Account(SETTINGS)
    account.limit(1.0)
    account.begin(0.9)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(account.begin, 0.5)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        account.end(0.9, (0, 10), 0.1, taken=True, free=False)
        waiting.result(5)


@pytest.mark.parametrize(
    ("how", "left"),
    [({"taken": True}, 0.5), ({"taken": False}, 0.5), ({"taken": False, "free": True}, 1.0)],
    ids=["no counts", "broken off", "refused"],
)
def test_what_may_have_been_paid_counts_as_paid(how, left):
    account = Account(SETTINGS)
    account.limit(1.0)
    spend(account, 0.5, None, **how)
    with pytest.raises(LimitError):
        account.begin(left + 0.01)
    account.begin(left)


@pytest.mark.parametrize(
    ("fault", "free"),
    [
        (error(500), True),
        (error(400), True),
        (Reply(b"oops"), False),
        (Reply(parts=[], declared=500), False),
        (as_json({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}), True),
    ],
    ids=["500", "400", "not JSON", "cut off", "counted"],
)
def test_what_a_fault_may_have_cost_is_set_aside(predictor_on, fault, free):
    with endpoint_server(fault) as server:
        predictor = predictor_on(server, max_retries=0)
        predictor.limit_cost(0.6)  # enough for one request: 24 tokens to write, 150 bytes to read
        told(lambda: predictor.answer([Request("fish")]))
        if free:
            assert predictor.answer([Request("fish")])[0].text == "echo of Say: fish"
        else:
            with pytest.raises(LimitError):
                predictor.answer([Request("fish")])
            assert len(server.seen) == 1


def test_many_threads_never_pass_the_limit(predictor_on):
    with endpoint_server() as server:
        predictor = predictor_on(server, concurrency=8)
        predictor.limit_cost(3.0)
        found = []
        with pytest.raises(LimitError):
            for pair in predictor.answer_each([Request("one two three")] * 200):
                found.append(pair)
        usage = predictor.usage
    assert 2.6 < usage.cost_usd <= 3.0
    assert len(found) == usage.requests == len(server.seen)


def test_an_account_is_the_same_whatever_the_order_of_threads():
    account = Account(SETTINGS)
    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            pool.submit(spend, account, 0.1, (number, 1))
    assert account.usage == Usage(sum(range(200)), 200, 200, 0, 0, 21.9, 100.0)


def test_answers_are_kept_before_they_are_given_and_after_a_caller_breaks_off(predictor_on):
    kept = {}
    with endpoint_server() as server:
        predictor = predictor_on(server, concurrency=2)
        requests = [Request(f"pub {number}") for number in range(20)]
        each = predictor.answer_many_each(requests, 1, kept.__setitem__)
        number, found = next(each)
        assert kept[number] == found
        each.close()
    assert len(kept) == len(server.seen) < 20


def test_an_error_while_keeping_ends_the_run(predictor_on):
    def keep(number, _):
        if number == 2:
            raise StillhouseError("the disk is full")

    with endpoint_server(*map(answers, "abcd")) as server:
        predictor = predictor_on(server, concurrency=1)
        each = predictor.answer_many_each([Request("fish")] * 9, 1, keep)
        assert [next(each)[0], next(each)[0]] == [0, 1]
        assert told(lambda: next(each)) == "the disk is full"
    assert len(server.seen) == 3
