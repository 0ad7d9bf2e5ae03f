"""Lists of English words that `same_request` reads: opposites, negations, prepositions, grammar."""

_NEGATIONS = """
no not never none neither nor nobody nothing nowhere cannot without non hardly scarcely barely
except unless lacks lacking
"""
NEGATIONS = frozenset(_NEGATIONS.split())
_ORDER = """
one zero first second third fourth fifth sixth seventh eighth ninth tenth last half double twice
triple once single both quarter dozen
"""
ORDER = frozenset(_ORDER.split())
_COUNTED = """
two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty
"""
NUMBER_WORDS = {word: str(number) for number, word in enumerate(_COUNTED.split(), start=2)}
# Each line holds words that are opposites or alternatives of each other; all of them must be said
# as often in both texts.
_OPPOSITES = """
increase decrease raise lower rise fall grow shrink gain lose expand reduce climb drop
enable disable activate deactivate allow forbid ban permit deny block accept reject refuse approve
start stop begin end continue pause resume finish launch cancel
open close closed shut lock unlock
add remove insert delete keep include exclude attach detach append
buy sell borrow lend import export send receive give take upload download push pull
rent own hire fire win loss profit
before after earlier later early late past future next previous recent old new older newer
above below over under up down upper upstairs downstairs inside outside in out on off
left right north south east west northern southern eastern western top bottom front back
more less most least many few fewer maximum minimum max min always often rarely sometimes
high low higher highest lowest tall short long wide narrow deep shallow big small large little
bigger smaller larger biggest smallest largest longest shortest
cheap cheaper cheapest expensive dear free paid
hot cold warm cool hottest coldest freeze boil melt wet dry sweet sour bitter
fast slow faster slower quick fastest slowest
good bad better worse best worst right wrong true false correct incorrect safe unsafe dangerous
easy hard difficult simple complex strong weak heavy light bright dark thick thin
love hate like dislike agree disagree support oppose attack defend
legal illegal possible impossible able unable visible hidden public private
encrypt decrypt encode decode compress decompress install uninstall mount unmount
connect disconnect login logout subscribe unsubscribe follow unfollow show hide
create destroy build demolish break fix repair damage introduce
success failure succeed fail pass survive live die alive dead born healthy sick
rich poor young full empty clean dirty happy sad
beginner expert amateur professional adult child male female man woman boy girl mother father
husband wife son daughter brother sister king queen
white black red green blue yellow
day night morning evening noon midnight weekday weekend today tomorrow yesterday
monday tuesday wednesday thursday friday saturday sunday
january february march april may june july august september october november december
am pm near far with yes all some any none every only same different
positive negative plus minus even odd input output source target sender recipient
question answer cause effect advantage disadvantage pro con benefit risk strength weakness
"""
# Words of grammar or of two meanings, which would make too much of too little.
_TOO_COMMON = "in on right may like any some take give end live light all"
OPPOSITES = frozenset(_OPPOSITES.split()) - frozenset(_TOO_COMMON.split())

# A preposition by what it says of the word behind it.
ROLES = {
    word: roles.split()[0]
    for roles in (
        "to into onto towards",
        "from",
        "of",
        "by",
        "for",
        "with",
        "without",
        "than",
        "at",
        "on",
        "in within",
        "about",
        "against versus vs",
        "between among",
        "through via",
        "under",
        "over",
        "near",
        "before",
        "after",
        "since",
        "until",
        "during",
        "per",
        "as",
        "instead",
        "because",
        "if when",
        "behind",
        "beside",
    )
    for word in roles.split()
}
# Words that a question can have more or fewer of and still be the same one. Tense is none of them:
# "who is" is not "who was".
_GRAMMAR = """
a an the please kindly thanks thank hi hello hey dear could can would do does is are be being
am has have having it its this that these those there here what whats and but so then just also
got get getting ll ve re s d m possible
"""
GRAMMAR = frozenset(_GRAMMAR.split())
PRONOUNS = {
    word: line.split()[0]
    for line in (
        "i me my mine",
        "you your yours",
        "he him his",
        "she her",
        "we us our",
        "they them",
    )
    for word in line.split()
}
# First of each line stands for all of it.
SAME = {
    word: line.split()[0]
    for line in (
        "remove delete",
        "cheap inexpensive",
        "big large",
        "bigger larger",
        "allow permit allowed permitted",
        "summarise summarize summary",
        "suggest recommend",
        "show list display",
        "start begin",
        "fix repair",
        "photo picture",
        "film movie",
        "quick fast",
        "buy purchase",
        "percent %",
        "what which",
        "was were",
    )
    for word in line.split()
}
