"""The one error a person is meant to read: what was expected, what was found, what to do next.

A `StillhouseError` is a mistake in a file, a parameter or a request. Entry points print it as one
line and exit with 1; anything else is a fault of ours and keeps its traceback.
"""


class StillhouseError(Exception):
    """A mistake outside the code, told as: expected, found, next step."""
