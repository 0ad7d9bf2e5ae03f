"""The `speculative` engine: a student drafts, a teacher verifies; the answers are the teacher's.

A folder holds two model folders, target/ and draft/, with one tokenizer. Greedy answers come from
serving/_speculation.py, one request after the other; beams and samples from the target alone.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from serving._answering import AGAIN, check_vocabulary
from serving._prompts import TOKENIZER_NAME, PromptEncoder
from serving._shots import load_shots
from serving._speculation import Counts, draft_and_verify
from serving._transformers_model import find_device, load_model
from serving.completion import Request
from serving.contract import Contract, read_contract
from serving.errors import StillhouseError
from serving.transformers_engine import TransformersPredictor

SETTINGS_NAME = "speculation.json"


class SpeculativePredictor(TransformersPredictor):
    """Two causal language models behind the interface that all engines share."""

    def __init__(self, folder: Path, contract: Contract, device: str | None = None) -> None:
        """Load both models of `folder`, whose files its own contract covers.

        Raises:
            StillhouseError: a model is missing or does not work, or they share no tokenizer.
        """
        where = find_device(device)
        self.drafted = read_settings(folder)
        target, draft = folder / "target", folder / "draft"
        check_same_tokens(target, draft)
        model, ends = load_model(target, read_contract(target, check_files=False), where)
        self.drafter, _ = load_model(draft, read_contract(draft, check_files=False), where)
        prompts = PromptEncoder(target, contract.prompt_template)
        for each in (model, self.drafter):
            check_vocabulary(folder, prompts, each.config.vocab_size)
        self._take(model, ends, prompts, load_shots(target, contract))
        self.positions = min(m.config.max_position_embeddings for m in (model, self.drafter))
        self.counts = Counts()
        self.use(contract)

    def statistics(self) -> dict[str, Any]:
        """What speculation came to so far: passes of the target, and tokens accepted in each."""
        counts = self.counts
        return {
            "steps": counts.steps,
            "drafted_per_step": counts.drafted / max(1, counts.steps),
            "accepted_per_step": counts.accepted / max(1, counts.steps),
            "tokens_per_step": counts.tokens / max(1, counts.steps),
            "accepted_share": counts.accepted / max(1, counts.drafted),
        }

    def _steps(
        self, prompts: Sequence[list[int]], requests: Sequence[Request], count: int
    ) -> Iterator[list[tuple[int, int, float]]]:
        if self.decoding.method != "greedy":
            yield from super()._steps(prompts, requests, count)
            return
        models = (self.model, self.drafter, self.ends)
        limits = (self.decoding.max_new_tokens, self.drafted)
        for row, prompt in enumerate(prompts):
            for found in draft_and_verify(*models, prompt, limits, self.counts):
                for token, logprob in found:
                    yield [(row, token, logprob)]
                if requests[row].abandoned:
                    break


def read_settings(folder: Path) -> int:
    """Longest draft [tokens].

    Raises:
        StillhouseError: the folder does not say it.
    """
    path = folder / SETTINGS_NAME
    try:
        drafted = json.loads(path.read_text(encoding="utf-8"))["drafted"]
    except (OSError, ValueError, KeyError, TypeError):
        drafted = None
    if type(drafted) is not int or drafted < 1:
        raise StillhouseError(f'{path} does not say how many tokens are "drafted". {AGAIN}')
    return drafted


def check_same_tokens(target: Path, draft: Path) -> None:
    """Refuse two models whose token ids may mean different text."""
    for folder in (target, draft):
        if not (folder / TOKENIZER_NAME).is_file():
            raise StillhouseError(f"{folder} has no {TOKENIZER_NAME}. {AGAIN}")
    tokens = [(folder / TOKENIZER_NAME).read_bytes() for folder in (target, draft)]
    templates = [read_contract(f, check_files=False).prompt_template for f in (target, draft)]
    if tokens[0] != tokens[1] or templates[0] != templates[1]:
        raise StillhouseError(
            f"{draft} cannot draft for {target}: their tokenizers or prompt templates differ. "
            f"Choose a student that was distilled with its teacher's tokenizer."
        )
