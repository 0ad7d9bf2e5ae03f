"""A tenant's budget stands in the lines of its keys: one for all of them."""

import json

import pytest

from serving import keys
from serving._keys import Keyring
from serving._spending.periods import Budget
from serving.errors import StillhouseError
from serving.keys import add_key, disable_key, set_budget


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.jsonl"


def line(number, **fields):
    return json.dumps({"id": f"{number:012x}", "tenant": "acme", "sha256": "0" * 64} | fields)


def ring(*lines):
    return Keyring(lines="\n".join(lines))


def test_all_keys_of_a_tenant_share_the_budget_that_one_names():
    found = ring(line(1), line(2, budget_usd=5), line(3, tenant="blue"))
    assert found.budget_of("acme") == Budget(5.0, "month")
    assert found.budget_of("blue") is None
    assert found.tenants == {"acme", "blue"}


def test_a_key_that_is_taken_away_takes_no_budget_with_it(file):
    _, key = add_key(file, "acme", {"budget_usd": 5.0, "budget_period": "day"})
    add_key(file, "acme", {})
    disable_key(file, key.id)
    assert Keyring(file).budget_of("acme") == Budget(5.0, "day")


@pytest.mark.parametrize("other", [{"budget_usd": 6}, {"budget_usd": 5, "budget_period": "day"}])
def test_two_budgets_of_a_tenant_are_refused_in_one_line(other):
    with pytest.raises(StillhouseError, match=r"line 2: tenant acme has two budgets") as caught:
        ring(line(1, budget_usd=5), line(2, **other))
    assert "\n" not in str(caught.value)
    assert ring(line(1, budget_usd=5), line(2, budget_usd=5.0)).budget_of("acme")


@pytest.mark.parametrize(
    "wrong", [{"budget_usd": -1}, {"budget_usd": "5"}, {"budget_usd": 1e7}, {"budget_period": "h"}]
)
def test_a_budget_that_is_none_is_named(wrong):
    (name,) = wrong
    with pytest.raises(StillhouseError, match=name):
        ring(line(1, **wrong))


def test_a_budget_is_set_for_all_keys_of_a_tenant_and_taken_away(file):
    for tenant in ("acme", "acme", "blue"):
        add_key(file, tenant, {})
    set_budget(file, "acme", 3.0, "day")
    found = [json.loads(one).get("budget_usd") for one in file.read_text().splitlines()]
    assert found == [3.0, 3.0, None]
    set_budget(file, "acme", None, "day")
    assert Keyring(file).budget_of("acme") is None


def test_a_running_service_takes_a_new_budget_over(file):
    presented, _ = add_key(file, "acme", {"budget_usd": 1.0})
    found = Keyring(file)
    set_budget(file, "acme", 2.0, "month")
    found.find(presented)
    assert found.budget_of("acme") == Budget(2.0)


@pytest.mark.parametrize("usd", [float("nan"), -1.0])
def test_what_is_no_budget_is_not_written(file, usd):
    add_key(file, "acme", {"budget_usd": 1.0})
    before = file.read_text()
    with pytest.raises(StillhouseError, match="budget_usd"):
        set_budget(file, "acme", usd, "month")
    with pytest.raises(StillhouseError, match="Choose one"):
        set_budget(file, "nobody", 1.0, "month")
    assert file.read_text() == before


def test_the_command_sets_budgets(file, capsys):
    keys.run(["add", "--file", str(file), "--tenant", "acme", "--budget-usd", "2.5"])
    assert Keyring(file).budget_of("acme") == Budget(2.5)
    told = ["budget", "--file", str(file), "--tenant", "acme"]
    keys.run([*told, "--usd", "9", "--period", "day"])
    assert Keyring(file).budget_of("acme") == Budget(9.0, "day")
    keys.run([*told, "--none"])
    assert Keyring(file).budget_of("acme") is None
    assert "no budget" in capsys.readouterr().err
