"""Section `package`: what may be set, and what is refused before any work starts."""

from pathlib import Path

import pytest

from serving.errors import StillhouseError
from stages._params import Params, check_params
from stages._params.package import Package

WHERE = Path("params.yaml")


def test_the_default_asks_enough_to_be_evidence_and_builds_the_winner_s_bento_alone():
    assert Params().package == Package()
    assert Package().golden_requests >= 200, "design: golden parity of at least 200 requests"
    assert Package().gpu_candidate is None and not Package().teacher


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"golden_requests": 0}, r"package\.golden_requests: .* greater than or equal to 1"),
        ({"batched_clients": 1}, r"package\.batched_clients: .* greater than or equal to 2"),
        ({"start_limit_s": 0.0}, r"package\.start_limit_s: .* greater than 0"),
        ({"request_limit_s": "1"}, r"package\.request_limit_s: .* valid number"),
        ({"gpu_candidate": "../nf4"}, r"package\.gpu_candidate: .* match pattern"),
        ({"teacher": "models/teacher"}, r"package\.teacher: .* valid boolean"),
        ({"golden_request": 5}, r"package\.golden_request: unknown key; did you mean golden_req"),
    ],
    ids=["none", "one client", "no time", "text", "path", "folder", "unknown"],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(section, message):
    with pytest.raises(StillhouseError, match=message):
        check_params({"package": section}, WHERE)


def test_a_gpu_candidate_must_be_a_candidate():
    params = check_params({"package": {"gpu_candidate": "nf5"}}, WHERE)
    with pytest.raises(StillhouseError, match=r"answer\.candidates has no 'nf5' \(there are: "):
        params.answer.folder(params.package.gpu_candidate)
