"""Add a name that the prompt does not know."""

import re
from random import Random

# Invented; no data that comes with the project has them.
NAMES = (
    "Kestrel Court", "Pemberton Hall", "Marlow Systems", "Oakridge Labs", "Harrow Gate",
    "Silverline Partners", "Northmoor", "Tallis Bridge", "Quayside Nine", "Verity Works",
    "Lantern Yard", "Bramley & Stone", "Ostrava Group", "Fenwick Mews", "Halcyon Cloud",
    "Castellan Data", "Wexley Arcade", "Duke's Landing", "Corvid Networks", "Saltmarsh Inn",
)  # fmt: skip
ENDINGS = (
    "near {name}",
    "next to {name}",
    "together with {name}",
    "according to {name}",
    "as {name} reported",
    "run by {name}",
    "opposite {name}",
    "on behalf of {name}",
    "unlike {name}",
)
_SENTENCE_END = re.compile(r"(?<=[\w%)\]])\.(?=\s|$)")


def add_foreign_name(text: str, prompt: str, rng: Random) -> str | None:
    """The text with a name of our list before the end of one sentence.

    None where text or prompt has a word of every name, or the text has no end of a sentence.
    """
    known = f"{prompt} {text}".lower()
    names = [name for name in NAMES if not any(word in known for word in name.lower().split())]
    ends = [match.start() for match in _SENTENCE_END.finditer(text)]
    if not names or not ends:
        return None
    place = rng.choice(ends)
    words = rng.choice(ENDINGS).format(name=rng.choice(names))
    return f"{text[:place]}, {words}{text[place:]}"
