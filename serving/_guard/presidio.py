"""Presidio's pattern recognisers as a second opinion: the extra "privacy", heavy, off by default.

Their patterns and checks are used, their engine is not: it would load a language model, and it
skips a pattern that takes too long without a word, which is "clean" for a check that did not run.
Recognisers that overlap with ours, and those that ask the network, are left out.

Importing presidio_analyzer brings spaCy along, and spaCy brings torch where it is installed.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from serving._guard.findings import Finding
from serving.errors import StillhouseError

RECOGNISERS = (
    "AbaRoutingRecognizer",
    "AuAbnRecognizer",
    "AuMedicareRecognizer",
    "AuTfnRecognizer",
    "CaSinRecognizer",
    "CryptoRecognizer",
    "FiPersonalIdentityCodeRecognizer",
    "InAadhaarRecognizer",
    "InPanRecognizer",
    "MedicalLicenseRecognizer",
    "PlPeselRecognizer",
    "SePersonnummerRecognizer",
    "SgFinRecognizer",
    "UkNinoRecognizer",
    "UsItinRecognizer",
    "UsNpiRecognizer",
)
MIN_SCORE = 0.5
MAX_CHARS = 20_000
PATTERN_TIMEOUT_S = 0.2


class PresidioCheck:
    """Kinds of personal data that our own rules have no pattern for."""

    def __init__(self, names: tuple[str, ...] = RECOGNISERS, min_score: float = MIN_SCORE) -> None:
        """Build the recognisers; `min_score`: what a match needs after its check digits.

        Raises:
            StillhouseError: not installed, or it has no such recognisers any more.
        """
        if find_spec("presidio_analyzer") is None:
            raise StillhouseError(
                "the guard is asked for Presidio, which is not installed. "
                'Run "pip install stillhouse[privacy]", or leave it out.'
            )
        regex: Any = import_module("regex")
        predefined: Any = import_module("presidio_analyzer.predefined_recognizers")
        absent = [name for name in names if not hasattr(predefined, name)]
        if absent:
            raise StillhouseError(
                f"presidio_analyzer has no {', '.join(absent)}. Install the version of the extra."
            )
        self._min_score = min_score
        self._rules: list[tuple[str, Any, float, Any]] = []
        for name in names:
            recogniser = getattr(predefined, name)()
            for pattern in recogniser.patterns:
                compiled = regex.compile(pattern.regex, recogniser.global_regex_flags)
                self._rules.append((name, compiled, pattern.score, recogniser))

    def find(self, text: str) -> list[Finding]:
        """What the recognisers find.

        Raises:
            TimeoutError: a pattern took longer than `PATTERN_TIMEOUT_S`.
            ValueError: the text is longer than `MAX_CHARS`.
        """
        if len(text) > MAX_CHARS:
            raise ValueError("too long for Presidio")
        return [
            Finding(f"presidio/{name}", recogniser.supported_entities[0].lower(), *match.span())
            for name, pattern, score, recogniser in self._rules
            for match in pattern.finditer(text, timeout=PATTERN_TIMEOUT_S)
            if match[0] and self._is_sure(recogniser, match[0], score)
        ]

    def _is_sure(self, recogniser: Any, matched: str, score: float) -> bool:
        """As presidio scores: a check that passes makes a match sure, one that fails nothing."""
        valid = recogniser.validate_result(matched)
        if valid is not None:
            score = 1.0 if valid else 0.0
        return score >= self._min_score and not recogniser.invalidate_result(matched)
