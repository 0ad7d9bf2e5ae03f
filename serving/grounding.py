"""Claims of an answer that its prompt does not support: numbers, names, codes, quotations, links.

Works without a slot schema and without a model: standard library only, one pass over the text,
every quantifier bounded, so it runs behind the live service as it does in evaluation. What counts
as a claim leaves out what is mostly no fact of its own: the capital of a sentence's first word,
"one of", "zero downtime", ordinals in words, headlines and shouting. A claim is supported when
prompt or context has it in any writing: "twenty-five" for 25, 5% for "five percent", 0.25 s for
250 ms, 6:41 pm for 18:41, "Checkout API" for checkout-api, Frankfurt for eu-central-1.

Not seen: a false word in lower case ("the disk failed" for "the network failed"), a made-up name
of one word that opens a sentence, a right value in a wrong place, a number that follows from
others (a sum, a difference) and is then a false alarm.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from serving._slots.quantities import Number, Quantity
from serving._source_terms import (
    CLOCK,
    EMAIL,
    LINK,
    WORD,
    Terms,
    clean_link,
    fold_word,
    minutes,
    pieces,
    read_numbers,
    read_terms,
    spell,
    stems,
    word_parts,
)

Kind = Literal["number", "name", "code", "quote", "link"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_CHARS = 20_000
"""Characters of an answer that are read."""
HEADLINE_WORDS = 4
"""Of so many words all with capitals, little ones aside, no capital says anything."""
_SMALL = {"a", "an", "the", "of", "and", "or", "for", "in", "on", "at", "to", "by", "with", "from"}

_CODE = re.compile(r"(?<![\w.@/-])[^\W_]+(?:[-_./][^\W_]+){0,12}(?![\w@])")
_QUOTE = re.compile(r"\"([^\"\n]{2,200})\"|“([^”\n]{2,200})”|`([^`\n]{2,200})`")
# Between two words: an end of a sentence, a line, a colon, a bracket or a quotation mark, behind
# any of which a capital is spelling.
_START = re.compile(r"[.!?:;\n\[\](){}\"“”„«»|•*>#…—–-] ?|[-–—] ")
_LIST_MARK = re.compile(r"(?:^|\n)[ \t]{0,8}\(?\d{1,3}[.)](?= )")
_GLUE = frozenset({" ", "-", " & ", "'", "’", "/"})
_UNIT_GLUED = re.compile(r"\d[\d.,]*(?:[a-zµ]{1,3}|[KMGT]i?B|[KMGTx])(?:/s)?|\d+(?:[ap]m|s)", re.I)
# "three quarters", "two and a half": a number of parts, and rarely written so in a prompt
_FRACTION = re.compile(
    r"\b\w{1,10}(?:[ -](?=(?:half|halves|thirds?|quarters?|fifths?|tenths?)\b)"
    r"|(?= and a (?:half|quarter)\b))",
    re.I,
)
_ORDINAL = re.compile(r"(\d{1,18})(?:st|nd|rd|th)", re.I)
_LITTLE = """
a an the of and or for in on at to by with from near as but is are was were it its this that these
those there here we you he she they i im ive id ill our your his her their my me us if when while
since after before not no yes so also both all any each some one two ok okay am pm mr mrs ms dr st
etc eta faq asap via per usd gbp eur dollar dollars pound pounds euro euros
"""
FUNCTION_WORDS = frozenset(_LITTLE.split())
"""Words whose capital says nothing, currencies with them, since an amount's sign may be spelled."""


class Claim(NamedTuple):
    """answer[start:end] claims something of this kind."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True)
class Grounding:
    """The outcome of one check.

    Attributes:
        claims: how many claims the answer makes [count].
        unsupported: those that the prompt does not support, in text order, without overlaps.
        complete: whether answer and prompt were read to their ends.
    """

    claims: int
    unsupported: tuple[Claim, ...]
    complete: bool


def check_grounding(answer: str, prompt: str, context: str | None = None) -> Grounding:
    """Find what `answer` claims and neither `prompt` nor `context` supports."""
    return check_against(answer, read_terms(join_source(prompt, context)))


def join_source(prompt: str, context: str | None) -> str:
    """All that an answer may rest on, as one text."""
    return f"{prompt}\n{context}" if context else prompt


def check_against(answer: str, source: Terms) -> Grounding:
    """The same for a prompt that was read before, such as one with several answers."""
    text = answer[:MAX_CHARS]
    found = [*_links(text, source), *_quotes(text, source)]
    taken = _marked(text, [(claim.start, claim.end) for claim, _ in found])
    rest = [*_codes(text, source), *_numbers(text, source), *_names(text, source)]
    found += [(c, known) for c, known in rest if not any(taken[c.start : c.end])]
    unsupported = sorted((c for c, known in found if not known), key=lambda c: c.start)
    return Grounding(len(found), tuple(unsupported), len(answer) <= MAX_CHARS and source.complete)


Checked = Iterator[tuple[Claim, bool]]
"""Claims, each with whether it is supported."""


def _marked(text: str, spans: Iterable[tuple[int, int]]) -> bytearray:
    """A byte per character, 1 inside the spans; makes "is it covered?" linear."""
    marks = bytearray(len(text))
    for start, end in spans:
        marks[start:end] = b"\1" * (end - start)
    return marks


def _links(text: str, source: Terms) -> Checked:
    for pattern in (EMAIL, LINK):
        for match in pattern.finditer(text):
            end = match.start() + len(match[0].rstrip(".,;:!?)]}'\""))
            yield Claim("link", match.start(), end), clean_link(match[0]) in source.links


def _quotes(text: str, source: Terms) -> Checked:
    for match in _QUOTE.finditer(text):
        words = [fold_word(word[0]) for word in WORD.finditer(match[0])]
        if words:
            known = all(_has_word(word, source) or word in FUNCTION_WORDS for word in words)
            yield Claim("quote", *match.span()), known


def _codes(text: str, source: Terms) -> Checked:
    """Words of letters and digits: api-7, eu-west-1, INC-1234, p99, v2.3, 5xx."""
    for match in _CODE.finditer(text):
        code = match[0]
        if not _is_code(code):
            continue
        if ordinal := _ORDINAL.fullmatch(code):
            yield Claim("number", *match.span()), spell(float(ordinal[1])) in source.values
            continue
        parts = [part for word in WORD.finditer(code) for part in word_parts(word[0])]
        yield Claim("code", *match.span()), _in_sequence(parts, source)


def _is_code(code: str) -> bool:
    letters = any(c.isalpha() for c in code)
    digits = any(c.isdigit() for c in code)
    if not (letters and digits) or _UNIT_GLUED.fullmatch(code):
        return bool(_ORDINAL.fullmatch(code))
    # "30-minute", "2-star": a number tied to plain words, which is read as a number
    head, _, tail = code.partition("-")
    figures = head.replace(".", "").replace(",", "")
    return not (figures.isdigit() and tail.replace("-", "").isalpha())


def _in_sequence(parts: list[str], source: Terms) -> bool:
    """Whether the parts stand in the source one after the other; windows of long ones."""
    width = 4
    windows = [parts[i : i + width] for i in range(max(1, len(parts) - width + 1))]
    return all("".join(window) in source.sequences for window in windows)


def _numbers(text: str, source: Terms) -> Checked:
    times = [match for match in CLOCK.finditer(text) if minutes(match)]
    for match in times:
        # "6:41" alone may be the evening's
        meant = [m + extra for m in minutes(match) for extra in ((0,) if match[3] else (0, 720))]
        yield Claim("number", *match.span()), not source.times.isdisjoint(meant)
    silent = [m.span() for pattern in (_LIST_MARK, _FRACTION) for m in pattern.finditer(text)]
    skipped = _marked(text, [*silent, *(match.span() for match in times)])
    for (offset, _), read in zip(pieces(text), read_numbers(text), strict=True):
        folded, quantities, numbers = read
        joined = [q for q in quantities if q.joined and _has_amount(q, source)]
        for number in numbers:
            start, end = folded.original_span(number.start, number.end)
            claim = Claim("number", offset + start, offset + end)
            within = any(q.start <= number.start < q.end for q in joined)  # "1 h 30 min"
            if not within and not any(skipped[claim.start : claim.end]):
                named = fold_word(_word_before(text, claim.start))
                yield claim, _has_number(folded.plain, number, quantities, source, named)


def _word_before(text: str, start: int) -> str:
    words = WORD.findall(text[max(0, start - 40) : start])
    return words[-1] if words else ""


def _has_number(
    plain: str, number: Number, quantities: Sequence[Quantity], source: Terms, named: str
) -> bool:
    written = plain[number.start : number.end]
    if number.value is None:  # a version, a date
        return _in_sequence(re.findall(r"\d+", written), source)
    value = spell(number.value)
    own = [q for q in quantities if q.start == number.start and not q.joined]
    if not own:  # without a unit it may be a part of a name: "API 7" for api-7
        is_part = bool(named) and f"{named}{written}" in source.sequences
        return is_part or value in source.values
    return value in source.bare or any(_has_amount(q, source) for q in own)


def _has_amount(quantity: Quantity, source: Terms) -> bool:
    return any((name, spell(amount)) in source.amounts for name, amount in quantity.amounts)


def _names(text: str, source: Terms) -> Checked:
    """Runs of capitalised words that do not merely open a sentence."""
    run: list[tuple[re.Match[str], bool]] = []
    for sentence in _sentences(text):
        if _is_headline([word[0] for word, _ in sentence]):
            continue
        for word, opens in sentence:
            if run and not (
                _is_capital(word[0]) and text[run[-1][0].end() : word.start()] in _GLUE
            ):
                yield from _as_claim(run, source)
                run = []
            if _is_capital(word[0]):
                run.append((word, opens))
        yield from _as_claim(run, source)
        run = []


def _is_headline(words: Sequence[str]) -> bool:
    capitals = (word[0].isupper() or word in _SMALL for word in words)
    return len(words) >= HEADLINE_WORDS and all(capitals)


def _sentences(text: str) -> Iterator[list[tuple[re.Match[str], bool]]]:
    """Words of each sentence with whether a capital there is only spelling."""
    sentence: list[tuple[re.Match[str], bool]] = []
    end = 0
    for word in WORD.finditer(text):
        gap = text[end : word.start()]
        opens = not sentence or (bool(_START.search(gap)) and gap != "-")
        if any(mark in gap for mark in ".!?\n") and sentence:
            yield sentence
            sentence = []
        sentence.append((word, opens))
        end = word.end()
    if sentence:
        yield sentence


def _is_capital(word: str) -> bool:
    return word[0].isupper() and not any(c.isdigit() for c in word)


def _as_claim(run: Sequence[tuple[re.Match[str], bool]], source: Terms) -> Checked:
    """A run is a claim when some word of it has its capital for being a name."""
    names = [w for w, opens in run if not opens and fold_word(w[0]) not in FUNCTION_WORDS]
    names = [w for w in names if len(w[0]) > 1]
    if not names:
        return
    unknown = [w for w in names if not _has_name(w[0], source)]
    shown = unknown or names
    yield Claim("name", shown[0].start(), shown[-1].end()), not unknown


def _has_name(word: str, source: Terms) -> bool:
    folded = fold_word(word)
    if _has_word(folded, source) or _in_sequence(word_parts(word), source):
        return True
    return word.isupper() and len(word) > 2 and folded in source.initials


def _has_word(word: str, source: Terms) -> bool:
    if word in source.words or any(stem in source.words for stem in stems(word)):
        return True
    return word in source.sequences or word in source.values
