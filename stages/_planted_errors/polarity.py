"""Turn a yes into a no or a no into a yes, and deny a fact that was stated.

`flip_negation` changes what the data itself asks with yes and no (may children come, was data
lost): it takes the only negation of a text away, or denies the only phrase of a list. `deny_fact`
puts a "not" behind a verb, whatever it states.
"""

import re
from random import Random

# What stands with a negation without being one: no fact turns when it is taken away.
IDIOM = re.compile(
    r"\b(?:no (?:further|longer|more|less|fewer|matter|doubt|wonder|other|better)|"
    r"not (?:only|just|far|more|less|to|be|disappoint|too|very|much)|without (?:a )?doubt|"
    r"never (?:disappoint|fail)|why not|(?:don't|won't) (?:miss|be|regret|break|forget|have))",
    re.IGNORECASE,
)
CUE = re.compile(
    r"\b(?:not|no|non|never|without|none|neither|nor|cannot|unsuitable|unfriendly|"
    r"prohibited|forbidden|lacks?)\b|n't\b|\badults?[- ]only|\bonly (?:for )?adults|"
    r"\b(?:kid|child|children)[- ]free",
    re.IGNORECASE,
)
# A negation and what is left without it; the first pattern that fits is used.
TAKEN_AWAY = (
    (r"\b(does|do|did)(?: not|n't) ", r"\1 "),
    (r"\b(is|are|was|were|has|have)(?: not|n't) ", r"\1 "),
    (r"\bcannot ", "can "),
    (r"\b(can|could|should|would)(?: not|n't) ", r"\1 "),
    (r"\bwithout ", "with "),
    (r"\b(a |an )?non[- ]", r"\1"),
    (r"\b(is|are|was) no (known )?(workaround|place|area|venue)", r"\1 a \2\3"),
    (r"\bNo (workaround)", r"A \1"),
    (r"\bno (workaround)", r"a \1"),
    (r"\bNo ", "Some "),
    (r"\b(caused|causing|with) no ", r"\1 "),
    (r"\bno ", "some "),
    (r"\b(and|but|though|although|it's|its|or|yet|,) not ", r"\1 "),
    (r"\bnot (?=(?:a |an |so )?(?:family|child|kid))", ""),
)
_CHILDREN = r"(?:famil(?:y|ies)|kids?|child(?:ren)?)"
# A yes and the no in its place.
DENIED = (
    (rf"\b(is|are|it's) (?=(?:a |very |quite )?{_CHILDREN}[- ]friendly)", r"\1 not "),
    (rf"\b({_CHILDREN}[- ]friendly)", r"non \1"),
    (rf"\b({_CHILDREN}) are (welcome|allowed)", r"\1 are not \2"),
    (rf"\bwelcomes ({_CHILDREN})", r"does not welcome \1"),
    (rf"\b(suitable|good|great|perfect|ideal) for ({_CHILDREN})", r"not \1 for \2"),
    (r"\bAll data is safe", "Not all data is safe"),
    (r"\ball data is safe", "not all data is safe"),
    (r"\bSome data (was|has been|loss|lost)", r"No data \1"),
    (r"\bsome data (was|has been|loss|lost)", r"no data \1"),
    (r"\bcaused (?:some )?data loss", "caused no data loss"),
    (r"\bwith data loss", "without data loss"),
    (r"\bA (workaround)", r"No \1"),
    (r"\b(?<!-)(?:a |an )(workaround)", r"no \1"),
    (r"(?<!no )\b(workaround available)", r"no \1"),
)
_VERB = re.compile(r"\b(is|are|was|were|has been|have been) (?!not\b|no\b|never\b|without\b|non\b)")
# After these a clause states nothing: "if you are looking for".
_UNSTATED = re.compile(
    r"\b(?:you|i|if|what|where|how|why|who|whether|when|while)\s*$|^\s*$", re.IGNORECASE
)


def flip_negation(text: str) -> str | None:
    """The text with its only negation taken away, or with a yes of the list denied.

    None where there are several negations or an idiom: it would not be certain what turns.
    """
    if IDIOM.search(text):
        return None
    cues = CUE.findall(text)
    if len(cues) > 1:
        return None
    rules = TAKEN_AWAY if cues else DENIED
    found = [(m, put) for rule, put in rules if len(m := list(re.finditer(rule, text))) == 1]
    if not found:
        return None
    (match,), put = found[0]
    return text[: match.start()] + match.expand(put) + text[match.end() :]


def deny_fact(text: str, rng: Random) -> str | None:
    """The text with a "not" behind one of its verbs (is, are, was, were, has been)."""
    places = [m for m in _VERB.finditer(text) if not _UNSTATED.search(text[: m.start()])]
    places = [m for m in places if not CUE.search(_clause(text, m.start()))]
    if not places:
        return None
    match = rng.choice(places)
    verb = match.group(1).split()
    denied = " ".join([verb[0], "not", *verb[1:]])
    return text[: match.start()] + denied + text[match.end() - 1 :]


def _clause(text: str, place: int) -> str:
    """The words around a place, from one sign of punctuation to the next."""
    return re.split(r"[.,;:!?]", text[:place])[-1] + re.split(r"[.,;:!?]", text[place:])[0]
