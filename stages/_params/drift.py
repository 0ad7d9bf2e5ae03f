"""Section `drift`: which window is compared with what, and what counts as drift."""

from typing import Annotated, Literal

from pydantic import Field

from stages._params.base import Section, Share

WindowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A folder's name below data/windows."""
Effect = Annotated[float, Field(ge=0.0, le=1.0)]


class Floors(Section):
    """Effects that are too small to matter, however sure they are."""

    auc: float = Field(0.6, ge=0.5, le=1.0)
    """Of the classifier that tells window from reference: 0.5 is chance, 1 always right."""
    mmd: Effect = 0.05
    """Of prompts as sentence vectors: root of the share of distance that the means make up."""
    distance: Effect = 0.1
    """Of numbers: Kolmogorov and Smirnov's distance."""
    names: Effect = 0.05
    """Of names: the share that has moved (total variation), less what chance moves."""
    share: Effect = 0.05
    """Of a yes or no: difference of two shares."""


class SelfCalibration(Section):
    """How the detectors are tried on the reference itself."""

    repeats: int = Field(20, ge=0)
    """Draws of two halves, once as they are and once with a planted shift; 0 leaves it out."""
    most_rows: int = Field(300, ge=10)
    """Of a half [count]; of a larger window more is found than is told."""
    shift: Share = 0.3
    """Share of one half's rows that is changed to see whether that is found."""


class Drift(Section):
    """Which window is compared with what, and what counts as drift."""

    window: WindowName = "planted"
    """The window: data/windows/<name>."""
    reference: WindowName = "calibration"
    """calibration: the calibration prompts and the released models' answers to them; else an
    earlier window, data/windows/<name>."""
    answered_by: Literal["auto", "route", "winner"] = "auto"
    """Whose answers to the calibration prompts a window is compared with: route: those that the
    cascade would give, winner: the winner's alone; auto: the winner's for a planted window, which
    it has answered, else the cascade's."""
    alpha: float = Field(0.05, gt=0.0, lt=1.0)
    """Chance of any alarm where nothing has drifted, over all tests together."""
    permutations: int = Field(2000, ge=99)
    """Of each test that a first 199 do not settle; the least p-value is 1 / (permutations + 1),
    and is multiplied by the number of tests."""
    folds: int = Field(5, ge=2)
    """Of the classifier's cross-validation."""
    min_rows: int = Field(50, ge=10)
    """With fewer different prompts on a side a test says nothing."""
    max_rows_per_side: int = Field(2000, ge=10)
    """More are sampled, by a hash of their ids."""
    floors: Floors = Floors()
    """Effects that are too small to matter."""
    calibration: SelfCalibration = SelfCalibration()
    """How the detectors are tried on the reference itself."""
    embeddings: bool = True
    """Whether prompts are compared as sentence vectors, too; encoding them is most of the time."""
    embedded_rows: int = Field(200, ge=10)
    """Most prompts of a side that are encoded."""
    embedder: str | None = None
    """Folder of an ONNX embedder (python -m stages._embedder); null: MiniLM from its package."""
    examples: int = Field(5, ge=0)
    """Prompts of each side in the report that are most unlike the other; personal data is
    masked."""
    evidently: bool = False
    """Whether Evidently's HTML report is written, too; needs the extra `drift`."""
