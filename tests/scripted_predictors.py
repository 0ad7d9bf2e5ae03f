"""A predictor without a model: its prompts say how long the answers are, and its steps are counted.

A prompt is numbers; the first is the length of the answer. `Script` holds what all copies of the
predictor share: what was computed, a clock that only moves when something is computed, and gates
to stop the computing thread at, so that no test sleeps.
"""

from collections import Counter
from dataclasses import replace
from threading import Event

from serving._answering import TokenPredictor
from serving.contract import Contract

END = 0
SECONDS = 10  # for what must happen at once; a test that waits longer has failed
CONTRACT = Contract(
    engine="scripted",
    prompt_template="{prompt}",
    slot_schema=None,
    limits={"max_prompt_tokens": 40},
    decoding={"max_new_tokens": 20},
    params_hash="0" * 64,
    data_hash="0" * 64,
)


class Script:
    """What was computed, and when."""

    def __init__(self):
        self.now = 0.0
        self.batches = []
        self.steps = Counter()
        self.on_step = lambda prompt, step: None
        self.cost_s = lambda prompts: 1.0
        self.began, self.may_go_on = Event(), Event()
        self.may_go_on.set()

    def clock(self):
        return self.now

    def hold(self):
        """Let the next micro-batch wait for `may_go_on`; `began` tells that it is there."""
        self.began.clear()
        self.may_go_on.clear()

    def step(self, prompt, number):
        self.steps[prompt] += 1
        self.on_step(prompt, number)


class Numbers:
    """Encodes numbers as themselves, words as 1, and tokens of answers as letters."""

    def encode(self, request, shots=""):
        return [int(word) if word.isdigit() else 1 for word in request.prompt.split()]

    def decode(self, ids):
        return "".join(chr(96 + number) for number in ids if number != END)


class ScriptedPredictor(TokenPredictor):
    """Answers a prompt "3 ..." with three tokens and an end."""

    def __init__(self, script, **decoding):
        self.script, self.prompts, self.shots = script, Numbers(), None
        self.ends, self.positions = frozenset({END}), None
        self.use(replace(CONTRACT, decoding={**CONTRACT.decoding, **decoding}))

    def decode(self, prompts, requests, count):
        script = self.script
        script.batches.append([request.prompt for request in requests])
        script.began.set()
        assert script.may_go_on.wait(SECONDS)
        script.now += script.cost_s(prompts)
        rows = [list(self._row(*pair)) for pair in zip(prompts, requests, strict=True)]
        return [[tuple(map(list, zip(*row, strict=True)))] * count for row in rows]

    def one_by_one(self, prompt, request):
        for token in self._row(prompt, request):
            self.script.now += 1.0
            yield token

    def token_logprobs(self, prompts, answers):
        raise NotImplementedError

    def _row(self, prompt, request):
        for number, token in enumerate([*range(1, prompt[0] + 1), END], start=1):
            self.script.step(request.prompt, number)
            yield token, -1.0
            if request.abandoned or number == self.decoding.max_new_tokens:
                return
