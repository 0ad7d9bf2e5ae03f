"""Who answers and judges while labels are made: a model in memory, or an endpoint.

Both give the answers that compete for each prompt, best first. A model in memory also says what it
thinks at each token, of its own answers and of references. An endpoint gives text for money: it
says what that will cost, keeps to a limit, and writes down what it was paid for before anything
else happens.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serving._endpoint_account import LimitError, Usage
from serving.completion import Completion, Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from stages._label_plan import LabelPlan, asked_of, hash_json
from stages._labels import Label, PaidAnswers, estimate_labels
from stages._labels.cost import SAMPLE
from stages._labels.records import Integers
from stages._params import Generation, Params

Example = dict[str, Any]
Tell = Callable[[int], None]
"""Told how many more prompts are answered."""
BATCH_TOKENS = 65_536  # of a generation batch: nobody waits for a single answer here
CPU_BATCH_TOKENS = 16_384  # whose keys and values stay in a CPU's caches: 0.7 of the time


class Labeller(Protocol):
    """Answers prompts, judges texts, and says what it costs; nothing is loaded until `open`."""

    def open(self, examples: Sequence[Example], /) -> None:
        """Get ready for `examples`, and say what their answers will cost."""
        ...

    def answer(self, examples: Sequence[Example], tell: Tell, /) -> list[list[Completion]]:
        """The answers that compete for each prompt, best first."""
        ...

    def token_ids(self, text: str, /) -> Integers:
        """An answer in the teacher's tokens, end token included; (0,) if they are unknown."""
        ...

    def judge(self, examples: Sequence[Example], labels: Sequence[Label], /) -> list[Label]:
        """The labels with their distributions, as far as the teacher gives them."""
        ...

    def close(self) -> None:
        """Finish, whatever happened, and say what was paid."""
        ...

    def cost(self) -> dict[str, float]:
        """What was paid, by earlier runs too, units in the names."""
        ...


def make_labeller(params: Params, teacher: Path, plan: LabelPlan, folder: Path) -> Labeller:
    """The labeller of a teacher's folder.

    Args:
        folder: of the labels; what an endpoint is paid for is kept there.
    """
    if plan.contract.engine == "endpoint":
        return _Endpoint(params, teacher, plan, folder)
    return _Model(params, teacher, plan)


def decoding_of(generation: Generation, seed: int) -> dict[str, Any]:
    """Decoding settings of a labelling run: all answers come back, filters choose among them."""
    own = {"seed": seed, "answers": 1, "batch_tokens": BATCH_TOKENS}
    return generation.model_dump(mode="json") | own


def request_of(example: Mapping[str, Any]) -> Request:
    """An example's prompt as a request."""
    return Request(example["prompt"], example.get("slots"), example.get("context"))


@dataclass
class _Model:
    params: Params
    teacher: Path
    plan: LabelPlan

    @cached_property
    def predictor(self) -> Any:
        from serving._transformers_model import find_device
        from stages._reload import reload

        decoding = decoding_of(self.params.label.generation, self.params.seed)
        if find_device(self.params.run.device).type == "cpu":
            decoding["batch_tokens"] = CPU_BATCH_TOKENS
        return reload(self.teacher, self.params.run.device, decoding)

    @cached_property
    def end(self) -> int:
        """Of the tokens that end the model's answers, the one that it was trained to end with."""
        from stages._pretrained.prompt import end_of

        return end_of(self.teacher)

    def open(self, _examples: Sequence[Example]) -> None:
        self.predictor.model.eval()

    def answer(self, examples: Sequence[Example], _tell: Tell) -> list[list[Completion]]:
        requests = [request_of(example) for example in examples]
        count = self.params.label.generation.answers
        found: list[list[Completion]] = self.predictor.answer_many(requests, count)
        return found

    def token_ids(self, text: str) -> Integers:
        return np.asarray([*self.predictor.prompts.encode_answer(text), self.end])

    def judge(self, examples: Sequence[Example], labels: Sequence[Label]) -> list[Label]:
        if self.plan.manifest.top_k == 0:
            return list(labels)
        from stages._distributions import judge
        from stages._sequences import TrainingSequence

        asked = self.predictor.encode([request_of(example) for example in examples])
        prompts = {e["id"]: ids for e, ids in zip(examples, asked, strict=True)}
        found = judge(
            self.predictor.model,
            [TrainingSequence(prompts[n.example_id], n.token_ids.tolist()) for n in labels],
            self.plan.manifest.top_k,
            self.plan.manifest.vocab_size,
            self.predictor.each,
        )
        return [
            replace(label, distribution=thought, mean_logprob=float(thought.token_logprobs.mean()))
            for label, thought in zip(labels, found, strict=True)
        ]

    def close(self) -> None:
        pass

    def cost(self) -> dict[str, float]:
        return {"usd": 0.0}


class _Endpoint:
    def __init__(self, params: Params, teacher: Path, plan: LabelPlan, folder: Path) -> None:
        self.params, self.teacher, self.plan = params, teacher, plan
        self.decoding = decoding_of(params.label.generation, params.seed)
        answers = params.label.generation.answers
        asked = [asked_of(teacher, plan.contract), self.decoding, answers]
        self.paid = PaidAnswers(folder, hash_json(asked))
        self.predictor: Any = None

    def open(self, examples: Sequence[Example]) -> None:
        """Load nothing but settings and key; estimate, and refuse what is above `label.max_usd`."""
        from serving.endpoint_engine import EndpointPredictor

        contract = replace(read_contract(self.teacher), decoding=self.decoding)
        self.predictor = EndpointPredictor(self.teacher, contract)
        settings, label = self.predictor.settings, self.params.label
        missing = [example for example in examples if self.paid.get(example) is None]
        sample = missing[:: -(-len(missing) // SAMPLE) or 1]
        references = [e["references"][0] for e in self.plan.examples if e["references"]]
        before = self.paid.bill
        estimate = estimate_labels(
            [self.predictor.text(request_of(example)) for example in sample],
            len(missing),
            references[:: -(-len(references) // SAMPLE) or 1],
            label.generation.answers,
            label.generation.max_new_tokens,
            settings,
            (len(self.paid), before),
        )
        _say(
            f"{len(missing):,} prompts are to be asked of {settings.model} "
            f"({len(examples) - len(missing):,} are answered, {before.cost_usd:.4g} USD paid). "
            f"Expected: {estimate.prompt_tokens:,} prompt and {estimate.completion_tokens:,} "
            f"completion tokens, {estimate.usd:.4g} USD; at most {estimate.usd_at_most:.4g} USD "
            f"without repeats. Estimated by {estimate.basis}."
        )
        if label.max_usd is not None and missing:
            self._keep_to(label.max_usd, before.cost_usd, estimate.usd)

    def _keep_to(self, most: float, before: float, expected: float) -> None:
        settings = self.predictor.settings
        if not (
            settings.price_per_1k_prompt_tokens_usd or settings.price_per_1k_completion_tokens_usd
        ):
            raise StillhouseError(
                f"label.max_usd is {most:g}, but teacher.endpoint names no prices, so nothing can "
                f"be counted. Name the prices, or set label.max_usd: null."
            )
        if before + expected > most:
            raise StillhouseError(
                f"label.max_usd is {most:g}, but {before:.4g} USD are paid and another "
                f"{expected:.4g} are expected. Raise it, or label fewer prompts; nothing was asked."
            )
        self.predictor.limit_cost(most - before)

    def answer(self, examples: Sequence[Example], tell: Tell) -> list[list[Completion]]:
        """Ask for what was never paid for; each answer is written down as it comes."""
        missing = {(e["prompt"], e.get("context")): e for e in examples if self.paid.get(e) is None}
        waiting = list(missing.values())
        tell(len(examples) - len(waiting))

        def keep(number: int, answers: list[Completion]) -> None:
            self.paid.add(waiting[number], answers, self._account)

        requests = [request_of(example) for example in waiting]
        count = self.params.label.generation.answers
        try:
            for _ in self.predictor.answer_many_each(requests, count, keep):
                tell(1)
        except StillhouseError as error:
            raise StillhouseError(f"{self._told(error)} {self._kept()}") from None
        return [self.paid.get(example) or [] for example in examples]

    def _told(self, error: StillhouseError) -> str:
        if not isinstance(error, LimitError):
            return str(error)
        return (
            f"label.max_usd: {self.params.label.max_usd:g} is as good as spent "
            f"({self._bill().cost_usd:.4g} USD are paid, and the next request could pass it). "
            f"Raise it."
        )

    def _kept(self) -> str:
        kept = f"{len(self.paid):,} paid answers are kept in {self.paid.path}"
        return f'{kept}; "dvc repro label" goes on from there.'

    def token_ids(self, _text: str) -> Integers:
        return np.empty(0, np.int64)

    def judge(self, _examples: Sequence[Example], labels: Sequence[Label]) -> list[Label]:
        return list(labels)

    def close(self) -> None:
        if self.predictor is None:
            return
        with suppress(StillhouseError):  # a full disk was told of before
            self.paid.close_bill(self._account)
        self.predictor.close()
        whole, own = self._bill(), self._account()
        if own.requests:
            _say(f"{own.cost_usd:.4g} USD were paid in this run, {whole.cost_usd:.4g} in all.")

    def cost(self) -> dict[str, float]:
        bill = self._bill()
        names = ("requests", "retries", "unmetered", "prompt_tokens", "completion_tokens")
        return {
            "usd": round(bill.cost_usd, 6),
            "usd_this_run": round(self._account().cost_usd, 6),
            **{name: getattr(bill, name) for name in names},
        }

    def _account(self) -> Usage:
        spent: Usage = Usage() if self.predictor is None else self.predictor.usage
        return spent

    def _bill(self) -> Usage:
        return self.paid.bill_with(self._account)


def _say(line: str) -> None:
    sys.stderr.write(f"label: {line}\n")
    sys.stderr.flush()
