"""What the service is told by its environment, read once and checked all together.

Every variable begins with STILLHOUSE_. They are read by each process of the service, so that a
mistake stops it before a model is loaded. Keys, logs, traces and the time to drain have variables
of their own (serving/_keys.py, _request_log.py, _tracing.py, _lifecycle.py). TLS is BentoML's own:

    bentoml serve serving.service:Stillhouse --ssl-certfile cert.pem --ssl-keyfile key.pem
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from serving._chat import Unplaced
from serving._context_window import Policy
from serving._keys import KEY
from serving._settings_reading import (
    ADDRESS,
    FILE,
    FOLDER,
    PREFIX,
    SWITCH,
    Reader,
    number,
    one_of,
    read_settings,
    whole,
)
from serving.errors import StillhouseError

WINNER = Path("models/winner.json")
LONGEST_DEADLINE_S = 140.0
"""Below the time after which BentoML answers by itself, in another form (service.py: TRAFFIC)."""
Batching = Literal["adaptive", "direct"]
Device = Literal["cpu", "cuda"]
Cloud = Literal["sagemaker", "vertex", "azureml"]


@dataclass(frozen=True)
class ServiceSettings:
    """One field per variable: STILLHOUSE_ and the field's name in capitals."""

    student: Path | None = None
    """The model's folder; None: the winner for `device` in models/winner.json."""
    baseline: Path = Path("models/baseline")
    """The traditional model's folder."""
    student_url: str | None = None
    """Address of a student that runs by itself; None: this service starts its own."""
    baseline_url: str | None = None
    """Address of a baseline that runs by itself; None: this service starts its own."""
    models_key: str | None = field(default=None, repr=False)
    """Our key there."""
    models_insecure: bool = False
    """Whether prompts and key may go there over http in a network that you trust."""
    device: Device = "cpu"
    """Which winner is served."""
    window_policy: Policy = "refuse"
    """What happens to a request that is longer than the model's window."""
    unplaced: Unplaced = "refuse"
    """What happens to system messages, turns and context that the template has no place for."""
    batching: Batching = "adaptive"
    """adaptive: through BentoML's dispatcher, one batch at a time; direct: the scheduler alone."""
    max_batch_rows: int | None = None
    """Most rows of a micro-batch [count]; None: as many as fit, and 32 at most."""
    batch_tokens: int | None = None
    """Most tokens of a micro-batch, padding included; None: as many as fit, and 8192 at most."""
    max_body_bytes: int = 1_000_000
    """Longest body of a request [bytes]."""
    max_prompt_tokens: int | None = None
    """Longest prompt [tokens]; None: the model's own limit."""
    max_output_tokens: int | None = None
    """Longest answer that may be asked [tokens]; None: what the contract says."""
    max_answers: int = 8
    """Most answers per prompt [count]."""
    max_queue_items: int = 256
    """Most requests under way [count]."""
    max_queue_tokens: int = 262_144
    """Most tokens under way, room for answers included."""
    deadline_s: float = 30.0
    """Longest time a request may take, where it does not ask for less [s]; at most 140."""
    usd_per_hour: float = 0.0
    """Price of the machine [USD per hour], from which costs of requests are computed."""
    rates: str = "memory://"
    """Store of the rates per key: memory:// for one process, redis:// or rediss:// for many."""
    rates_ca: Path | None = None
    """Certificates (PEM) that the store of the rates is checked with; None: the system's."""
    budgets: str = "memory://"
    """Store of what tenants have spent: memory:// for one process, redis:// or rediss:// for many
    and for longer than a process lives."""
    budgets_ca: Path | None = None
    """Certificates (PEM) that this store is checked with; None: the system's."""
    cloud: Cloud | None = None
    """Whose own paths are answered too (serving/_cloud); None: nobody's."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ServiceSettings":
        """Read all variables; an empty one counts as not set.

        Raises:
            StillhouseError: some are wrong; all of them in one line.
        """
        return read_settings(cls, environment, _READERS)

    def student_folder(self, winner: Path = WINNER) -> Path:
        """Folder of the model that is served.

        Raises:
            StillhouseError: none is named, and models/winner.json names none for this device.
        """
        return self.student or _winner_folder(winner, self.device)


def _winner_folder(path: Path, device: Device) -> Path:
    """Folder that `path`, as the stage select writes it, names for a device."""
    again = f'Run "dvc repro select", or name a model folder in {PREFIX}STUDENT.'
    try:
        winners = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StillhouseError(f"{path} does not exist, so no winner is known. {again}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StillhouseError(f"{path} is not JSON ({error}). {again}") from None
    winner = winners.get(device) if isinstance(winners, dict) else None
    if not isinstance(winner, dict) or not isinstance(winner.get("folder"), str):
        raise StillhouseError(f"{path} names no winner for {device}. {again}")
    return Path(winner["folder"])


def check_digest(folder: Path, found: str, winner: Path = WINNER) -> None:
    """Refuse a winner's folder that holds another model than the one that won.

    Raises:
        StillhouseError: `winner` names `folder` with another digest than `found`.
    """
    if not winner.is_file():
        return
    named = json.loads(winner.read_text(encoding="utf-8"))
    for device in get_args(Device):
        one = (named if isinstance(named, dict) else {}).get(device)
        if one and Path(one["folder"]) == folder and one["model_sha256"] != found:
            raise StillhouseError(
                f"{folder} holds model {found[:12]}, but {one['model_sha256'][:12]} won on "
                f'{device}. Run "dvc checkout" for the one that won, or "dvc repro select".'
            )


_READERS: Mapping[str, Reader] = {
    "student": FOLDER,
    "baseline": FOLDER,
    "student_url": ADDRESS,
    "baseline_url": ADDRESS,
    "models_key": ("a key that serving.keys made", lambda text: KEY.fullmatch(text) and text),
    "models_insecure": SWITCH,
    "device": one_of(get_args(Device)),
    "window_policy": one_of(get_args(Policy)),
    "unplaced": one_of(get_args(Unplaced)),
    "batching": one_of(get_args(Batching)),
    "max_batch_rows": whole(1),
    "batch_tokens": whole(1),
    "max_body_bytes": whole(1),
    "max_prompt_tokens": whole(1),
    "max_output_tokens": whole(1),
    "max_answers": whole(1),
    "max_queue_items": whole(1),
    "max_queue_tokens": whole(1),
    "deadline_s": number(0.0, most=LONGEST_DEADLINE_S),
    "usd_per_hour": number(0.0, included=True),
    "rates": ADDRESS,
    "rates_ca": FILE,
    "budgets": ADDRESS,
    "budgets_ca": FILE,
    "cloud": one_of(get_args(Cloud)),
}
