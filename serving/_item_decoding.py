"""The predictor of an item: the model with the contract's decoding, and what the item asks for.

Settings are merged over the contract's. What belongs to a method (beams, answers that compete) is
not taken along to another method; and an answer that is shorter by demand was not cut off, so it
is no reason for a second attempt.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from serving._answering import TokenPredictor
from serving._decoding import Decoding
from serving._items import Item
from serving.errors import StillhouseError

OF_A_METHOD = ("beams", "answers", "length_penalty")


class Variant(NamedTuple):
    """A predictor with the settings that some items share."""

    name: str
    """The same for items that may go into one micro-batch."""
    predictor: TokenPredictor
    rows: int
    """Rows that one item takes in its batch [count]."""
    seed: int | None
    """Of the item's samples; it is the item's own, so that other seeds go into its batch."""


class Variants:
    """The predictors of all settings that are asked for; the least recently used are forgotten."""

    def __init__(self, predictor: TokenPredictor, batch_tokens: int, most: int) -> None:
        """`batch_tokens` replaces the contract's: micro-batches are cut before the engine is asked.

        Args:
            most: settings that are kept [count].
        """
        self._predictor = predictor
        self._batch_tokens = batch_tokens
        self._most = most
        self._made: OrderedDict[str, TokenPredictor] = OrderedDict()

    def __len__(self) -> int:
        """Settings that are kept [count]."""
        return len(self._made)

    def of(self, item: Item) -> Variant:
        """The predictor that `item` asks for.

        Raises:
            StillhouseError: settings that are unknown, wrong, do not fit the model, or have not as
                many answers as the item wants.
        """
        merged = merge(self._predictor.contract.decoding, item.decoding)
        merged["batch_tokens"] = self._batch_tokens
        seed = checked_seed(merged.pop("seed", None))
        name = json.dumps(merged, sort_keys=True, default=repr)
        predictor = self._made.get(name) or self._predictor.using(merged)
        self._made[name] = predictor
        self._made.move_to_end(name)
        if len(self._made) > self._most:
            self._made.popitem(last=False)
        check_answers(predictor, item.answers)
        decoding = predictor.decoding
        competing = decoding.method == "sample" and item.answers == 1
        rows = max(decoding.beams, decoding.answers if competing else item.answers)
        return Variant(f"{item.answers} {name}", predictor, rows, seed)


def merge(contract: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's settings with those asked for in their place."""
    method = contract.get("method", "greedy")
    merged = {**contract, **asked}
    if merged.get("method", "greedy") != method:
        foreign = [name for name in OF_A_METHOD if name not in asked]
        merged = {name: value for name, value in merged.items() if name not in foreign}
    longest, allowed = merged.get("max_new_tokens"), contract.get("max_new_tokens")
    shorter = isinstance(longest, int) and isinstance(allowed, int) and longest < allowed
    if shorter and merged.get("method", "greedy") == "greedy":
        merged["answers"] = 1
    return merged


def checked_seed(seed: object) -> int | None:
    """The seed of an item or its model, if there is one.

    Raises:
        StillhouseError: it is none.
    """
    if seed is None:
        return None
    return Decoding.from_dict({"max_new_tokens": 1, "seed": seed}).seed


def check_answers(predictor: TokenPredictor, count: int) -> None:
    """Refuse more answers than the method has.

    Raises:
        StillhouseError: told as expected, found, next step.
    """
    decoding = predictor.decoding
    if count == 1 or decoding.method == "sample":
        return
    if decoding.method == "greedy" or count > decoding.beams:
        raise StillhouseError(
            f"{count} answers were asked of method {decoding.method} with {decoding.beams} beams, "
            f'which has {decoding.beams}. Ask for fewer, or for method "sample".'
        )
