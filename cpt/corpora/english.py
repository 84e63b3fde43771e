"""Grammar in minimal pairs: a beginning of a sentence, and the right and the wrong next word.

Phenomena follow BLiMP (Warstadt et al. 2020, arXiv:1912.00582); the sentences are our own.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """One minimal pair; `kind` is the phenomenon."""

    kind: str
    beginning: str
    good: str
    bad: str


_NOUNS = (
    "key door|cousin letter|author poem|pilot plane|doctor patient|guard prisoner|student lesson|"
    "farmer horse|painter wall|driver truck|sailor ship|lawyer judge|singer song|waiter table|"
    "neighbor garden|actor film|miner lamp|player ball|nurse room|king castle"
)
_PLACES = "near|behind|beside|with|next to"
_WOMEN = "mother|sister|girl|queen|aunt|woman|actress|daughter|grandmother|waitress"
_MEN = "father|brother|boy|king|uncle|man|actor|son|grandfather|waiter"
_PEOPLE = "parents|children|soldiers|players|students|neighbors|guests|doctors"
_DEEDS = "hurt|blamed|saw|praised|helped|taught|trusted|hid"
_PAST = (
    "write wrote writed|go went goed|eat ate eated|take took taked|give gave gived|"
    "sing sang singed|drive drove drived|break broke breaked|catch caught catched|"
    "bring brought bringed|buy bought buyed|find found finded|keep kept keeped|leave left leaved|"
    "know knew knowed|grow grew growed|draw drew drawed|speak spoke speaked|steal stole stealed|"
    "teach taught teached|think thought thinked|feel felt feeled|build built builded|run ran runned"
)
_PERFECT = (
    "written wrote|gone went|eaten ate|taken took|given gave|sung sang|driven drove|broken broke|"
    "known knew|grown grew|drawn drew|spoken spoke|stolen stole|begun began|seen saw|done did|"
    "fallen fell|chosen chose|hidden hid|ridden rode"
)
_THINGS = (
    "book books|apple apples|house houses|bottle bottles|chair chairs|flower flowers|shoe shoes|"
    "letter letters|window windows|picture pictures|horse horses|knife knives|child children|"
    "tooth teeth|foot feet|mouse mice|box boxes|city cities"
)
_VERBS = "work|live|play|want|need|look|help|call|turn|stop"
_QUANTIFIERS = "Neither|One|Each|Either"
_PREPOSITIONS = (
    "She is afraid of with|He depends on of|They are interested in on|I am tired of in|"
    "We arrived at of|She is good at of|He is married to of|They listened to in|"
    "I apologized for at|She belongs to at|He insisted on of|We agreed with of|"
    "She looked at of|He suffers from to|They are proud of with|I am used to of|"
    "She is responsible for of|He succeeded in to|They complained about of|We laughed at of"
)


def _split(table: str) -> list[list[str]]:
    return [entry.split() for entry in table.split("|")]


def _all() -> Iterator[Pair]:
    places, women, men = _PLACES.split("|"), _WOMEN.split("|"), _MEN.split("|")
    people, deeds, verbs = _PEOPLE.split("|"), _DEEDS.split("|"), _VERBS.split("|")
    for head, other in _split(_NOUNS):
        for place in places:
            yield Pair("agreement", f"The {head}s {place} the {other}", "are", "is")
            yield Pair("agreement", f"The {head} {place} the {other}s", "is", "are")
    for deed in deeds:
        for woman in women:
            yield Pair("reflexive", f"The {woman} {deed}", "herself", "himself")
        for man in men:
            yield Pair("reflexive", f"The {man} {deed}", "himself", "herself")
        for group in people:
            yield Pair("reflexive", f"The {group} {deed}", "themselves", "himself")
    for present, past, wrong in _split(_PAST):
        for who in ("he", "she", "we", "they"):
            yield Pair("past", f"Every day they {present}, and yesterday {who} also", past, wrong)
    for good, bad in _split(_PERFECT):
        for start in ("She has never", "They had already", "He has not", "I have"):
            yield Pair("perfect", start, good, bad)
    for one, many in _split(_THINGS):
        yield Pair("number", "I bought these", many, one)
        yield Pair("number", "He looked at this", one, many)
        yield Pair("number", "She counted three", many, one)
        yield Pair("number", "Every", one, many)
        yield Pair("number", "There were several", many, one)
    for head, other in _split(_NOUNS):
        yield Pair("relative clause", f"The {head} that the {other}s like", "is", "are")
        yield Pair("relative clause", f"The {head}s that the {other} likes", "are", "is")
        yield Pair("coordination", f"The {head} and the {other}", "were", "was")
        yield Pair("negative polarity", f"No {head} has", "ever", "always")
        yield Pair("negative polarity", f"None of the {head}s have", "ever", "always")
        for quantifier in _QUANTIFIERS.split("|"):
            yield Pair("quantifier", f"{quantifier} of the {head}s", "is", "are")
        for verb in verbs:
            yield Pair("verb", f"The {head} behind the {other}s never", f"{verb}s", verb)
            yield Pair("verb", f"The {head}s behind the {other} never", verb, f"{verb}s")
    for entry in _PREPOSITIONS.split("|"):
        *beginning, good, bad = entry.split()
        yield Pair("preposition", " ".join(beginning), good, bad)


def pairs(seed: int) -> list[Pair]:
    """All pairs in a fixed random order."""
    found = list(dict.fromkeys(_all()))
    random.Random(seed).shuffle(found)
    return found
