"""Change one digit of one number."""

import re
from random import Random

# A number that stands alone: not the 99 of "p99" nor the 1 of "eu-west-1".
_NUMBER = re.compile(r"(?<![\w.,:-])\d+(?:[.,:]\d+)*(?![\w-]|[.,:]\d)|(?<=£)\d+(?![\d.,]\d)")


def change_digit(text: str, rng: Random) -> str | None:
    """The text with one digit of one number, at one place, changed to another.

    The first digit never becomes 0, and of a time of day only minutes change, so that what comes
    out is still a number or a time. The last digits of a decimal fraction change the amount too.
    """
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    number = rng.choice(numbers)
    place = rng.choice(_digits(number.group())) + number.start()
    least = 1 if place == number.start() else 0
    others = [str(d) for d in range(least, 10) if str(d) != text[place]]
    return text[:place] + rng.choice(others) + text[place + 1 :]


def _digits(number: str) -> list[int]:
    """Positions of the digits that may change; of "13:15" only the last."""
    if ":" in number:
        return [len(number) - 1]
    return [place for place, sign in enumerate(number) if sign.isdigit()]
