"""Section `package`: the winner as a Bento, and what shows that it answers as it was measured."""

from pydantic import Field

from stages._params.base import Section
from stages._params.evaluation import CandidateName


class Package(Section):
    """The winner as a Bento, and what shows that it answers as it was measured."""

    golden_requests: int = Field(200, ge=1)
    """Calibration prompts, drawn by the seed, that the served Bento is asked one at a time [count];
    every answer must be the one that the model folder gives. A smaller split gives all it has."""
    batched_clients: int = Field(8, ge=2)
    """Clients that ask the same prompts at the same time [count]; how many answers agree is
    reported apart, since the sums of a batch may flip a tie."""
    start_limit_s: float = Field(120.0, gt=0.0)
    """Longest time until the served Bento is ready [s]."""
    request_limit_s: float = Field(60.0, gt=0.0)
    """Longest time for one answer [s]."""
    gpu_candidate: CandidateName | None = None
    """Candidate that gets the GPU's Bento where select found no winner on CUDA, such as on a
    machine without one; null: none. Its requests are then answered on the CPU."""
    teacher: bool = False
    """Whether the teacher gets a Bento of its own, models/bento/teacher.bento, which the winner's
    asks by its address; for a teacher with weights, since an endpoint needs none."""
