"""What tests share: the project's settings, and no network beyond this machine.

pytest-socket (see pyproject.toml) refuses every connection that leaves loopback.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for line in (
    (Path(__file__).parent.parent / "settings.env").read_text(encoding="utf-8").splitlines()
):
    name, separator, value = line.partition("=")
    if separator and not name.startswith("#"):
        os.environ.setdefault(name, value)
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
    os.environ[name] = "1"


@pytest.fixture(autouse=True)
def _no_accelerator_left() -> Iterator[None]:
    """Accelerate keeps the precision of a process's first run, and tests train many models."""
    yield
    if accelerate := sys.modules.get("accelerate.state"):
        accelerate.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """In CI a missing service is a failure; only the E2E data, which we may not ship, may lack."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("STILLHOUSE_REQUIRE_SERVICES") == "1":
        reason = str(report.longrepr[2])
        if "E2E_DIR" not in reason and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"skipped although STILLHOUSE_REQUIRE_SERVICES=1: {reason}"
