"""How alike two texts are, by their characters: chrF, without torch and without numpy.

chrF (Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", WMT) is the
F-score of character n-grams, n = 1 to 6, recall weighing beta = 2 times as much, without spaces.
Precision and recall are averaged over the orders that both texts are long enough for, as
sacreBLEU 2 does by default ("effective order"), so that its figures are the same but for scale.
"""

from collections import Counter

ORDER = 6
BETA = 2.0
SIGNATURE = f"chrF{BETA:g}|chars:{ORDER}|space:no|scale:0-1"


def similarity(text: str, reference: str) -> float:
    """chrF of `text` against `reference`: 0 nothing in common, 1 equal but for spaces.

    Two texts without any characters are equal.
    """
    ours, theirs = ("".join(one.split()) for one in (text, reference))
    if ours == theirs:
        return 1.0
    precisions, recalls = [], []
    for n in range(1, ORDER + 1):
        made, wanted = _ngrams(ours, n), _ngrams(theirs, n)
        if not made or not wanted:
            continue
        shared = (made & wanted).total()
        precisions.append(shared / made.total())
        recalls.append(shared / wanted.total())
    if not precisions:
        return 0.0
    precision, recall = (sum(some) / len(some) for some in (precisions, recalls))
    weighed = BETA**2 * precision + recall
    return (1 + BETA**2) * precision * recall / weighed if weighed else 0.0


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))
