"""Settings of an endpoint are checked whole, and nothing in them or their errors is a key."""

from dataclasses import replace

import pytest
from endpoint_server import KEY, SETTINGS, told

from serving.endpoint_settings import (
    EndpointSettings,
    estimate_cost,
    read_settings,
    write_settings,
)


def test_settings_come_back_as_they_were_written(tmp_path):
    settings = replace(SETTINGS, system="Be brief…", api_key_env="TEACHER_KEY", logprobs=True)
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings


def test_all_mistakes_are_told_in_one_line():
    line = told(
        lambda: EndpointSettings.from_dict(
            {"model": "", "api": "soap", "timeout_s": 0, "concurrency": True, "key": KEY}
        )
    )
    for said in (
        *("'key' is unknown", "base_url is missing", "price_per_1k_prompt_tokens_usd is missing"),
        *("model must be", "api must be", "timeout_s must be", "concurrency must be"),
    ):
        assert said in line
    assert KEY not in line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "http://10.1.2.3/v1"}, "unencrypted"),
        ({"base_url": "http://localhost.example.com/v1"}, "unencrypted"),
        (
            {"base_url": "http://10.1.2.3/v1", "allow_insecure_http": True, "api_key_env": "K"},
            "would send a key unencrypted",
        ),
        ({"base_url": "ftp://example.com"}, "base_url must be"),
        ({"base_url": f"https://me:{KEY}@example.com/v1"}, "base_url must be"),
        ({"base_url": f"https://example.com/v1?key={KEY}"}, "base_url must be"),
        ({"api_key_env": KEY}, "NAME of an environment variable"),
        ({"api": "completions", "system": "Be brief"}, "system goes with api chat"),
        ({"api": "completions", "length_field": "max_completion_tokens"}, "max_tokens only"),
    ],
)
def test_settings_that_could_harm_are_refused(tmp_path, changes, said):
    line = told(lambda: write_settings(tmp_path, replace(SETTINGS, **changes)))
    assert said in line and KEY not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "http://localhost:8000/v1", "api_key_env": "K"},
        {"base_url": "http://[::1]:8000/v1"},
        {"base_url": "http://10.1.2.3/v1", "allow_insecure_http": True},
        {"base_url": "https://example.com/v1", "api_key_env": "K"},
    ],
)
def test_this_machine_and_encrypted_servers_are_fine(tmp_path, changes):
    write_settings(tmp_path, replace(SETTINGS, **changes))
    assert read_settings(tmp_path).base_url == changes["base_url"]


@pytest.mark.parametrize(
    ("text", "said"), [(None, "has no endpoint.json"), ("{", "is not JSON"), ("[]", "a list")]
)
def test_a_damaged_description_is_told(tmp_path, text, said):
    if text is not None:
        (tmp_path / "endpoint.json").write_text(text)
    assert said in told(lambda: read_settings(tmp_path))


def test_cost_is_tokens_times_prices():
    assert estimate_cost(2000, 500, SETTINGS) == pytest.approx(2 * 1.0 + 0.5 * 10.0)
