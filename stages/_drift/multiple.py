"""Many tests at once: p-values adjusted so that alarms by luck stay rare. Pure.

Y. Benjamini and Y. Hochberg 1995, "Controlling the false discovery rate: a practical and powerful
approach to multiple testing", Journal of the Royal Statistical Society B 57:289-300. Where nothing
has drifted every alarm is a false one, so the chance of any alarm is at most alpha; that holds for
independent tests and for those that rise and fall together (Y. Benjamini and D. Yekutieli 2001,
"The control of the false discovery rate in multiple testing under dependency", Annals of Statistics
29:1165-1188).
"""

from collections.abc import Sequence


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the same order: each below alpha where its test is kept at alpha.

    The i-th smallest of m becomes the least of p_j * m / j over all j >= i, and at most 1.
    """
    tests = len(p_values)
    result, least = [1.0] * tests, 1.0
    ranked = sorted(range(tests), key=lambda position: p_values[position])
    for rank, position in reversed(list(enumerate(ranked, start=1))):
        least = min(least, p_values[position] * tests / rank)
        result[position] = least
    return result
