"""A scheduler around a scripted predictor, and the little that its tests do with one."""

from contextlib import contextmanager
from queue import Queue
from threading import Event

from scripted_predictors import SECONDS, ScriptedPredictor

from serving._items import Answer, Item
from serving._scheduler import Scheduler
from serving._scheduler_limits import Limits


@contextmanager
def running(script, limits=None, decoding=None, **hooks):
    """A scheduler around a scripted predictor."""
    predictor = ScriptedPredictor(script, **(decoding or {}))
    limits = limits or Limits(gather_s=0.0)
    scheduler = Scheduler(predictor, limits, clock=script.clock, **hooks)
    try:
        yield scheduler
    finally:
        script.may_go_on.set()
        scheduler.close()
        assert not scheduler.alive


@contextmanager
def busy(script, scheduler):
    """While inside, a micro-batch of the prompt "1" is under way and all else waits."""
    script.hold()
    first = scheduler.submit(item("1"))
    assert script.began.wait(SECONDS)
    yield
    script.may_go_on.set()
    assert first.result(SECONDS).refusal is None


def item(prompt, **fields):
    return Item(id=prompt, prompt=prompt, **fields)


def ask(scheduler, *prompts, **fields):
    """Answers to prompts that arrive together."""
    futures = scheduler.submit_many([item(prompt, **fields) for prompt in prompts])
    return [future.result(SECONDS) for future in futures]


class Listener:
    """Pieces of one stream as they come, and its answer."""

    def __init__(self):
        self.pieces, self.ended, self._answers = [], Event(), Queue()

    def __call__(self, what):
        if isinstance(what, Answer):
            self._answers.put(what)
        else:
            self.pieces.append(what)

    @property
    def answer(self):
        return self._answers.get(timeout=SECONDS)
