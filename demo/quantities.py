"""Reading amounts out of English: "two years", "24 months" and "24-month" are one amount.

>>> [(q.dimension, q.amount) for q in quantities("1.5 kW, so fifteen hundred watts")]
[('power', 1500.0), ('power', 1500.0)]
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Quantity(NamedTuple):
    """An amount in the dimension's base unit, and where in the text it stands."""

    dimension: str
    amount: float
    start: int
    end: int


_DAY = 86_400.0
_MONTH = 365.25 / 12 * _DAY
# Unit name → (dimension, amount of one in the base unit: second, watt, gram, centimetre …).
_UNITS: dict[str, tuple[str, float]] = {
    "seconds second secs sec s": ("time", 1.0),
    "minutes minute mins min": ("time", 60.0),
    "hours hour hrs hr": ("time", 3600.0),
    "days day": ("time", _DAY),
    "weeks week wks wk": ("time", 7 * _DAY),
    "fortnights fortnight": ("time", 14 * _DAY),
    "months month mths mth": ("time", _MONTH),
    "quarters": ("time", 3 * _MONTH),
    "years year yrs yr": ("time", 12 * _MONTH),
    "decades decade": ("time", 120 * _MONTH),
    "kilowatts kilowatt kw": ("power", 1000.0),
    "watts watt w": ("power", 1.0),
    "kilograms kilogram kilogrammes kilos kilo kgs kg": ("weight", 1000.0),
    "grams gram grammes gramme g": ("weight", 1.0),
    "pounds pound lbs lb": ("weight", 453.592),
    "centimetres centimetre centimeters centimeter cms cm": ("length", 1.0),
    "millimetres millimeters mm": ("length", 0.1),
    "metres metre meters meter m": ("length", 100.0),
    "millilitres millilitre milliliters milliliter mls ml": ("volume", 1.0),
    "centilitres centilitre centiliters cl": ("volume", 10.0),
    "litres litre liters liter l": ("volume", 1000.0),
    "milliamps milliamp ma": ("current", 0.001),
    "amperes ampere amps amp": ("current", 1.0),
    "decibels decibel db": ("loudness", 1.0),
    "times": ("times", 1.0),
}
UNITS = {name: unit for names, unit in _UNITS.items() for name in names.split()}

NUMBER_WORDS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_WORDS = {word: float(number) for number, word in enumerate(NUMBER_WORDS)} | {
    word: 10.0 * number for number, word in enumerate(_TENS, start=2)
}
_SCALES = {"hundred": 100.0, "thousand": 1000.0, "dozen": 12.0}
_WORD = "|".join(sorted((*_WORDS, *_SCALES), key=len, reverse=True))
_DIGITS = r"\d+(?:\.\d+)?(?:\s*½)?|½"
_SPELLED = (
    rf"(?:an?\s+)?(?:{_WORD})(?:[\s-]+(?:and\s+)?(?:{_WORD}))*"
    r"|half\s+an?|an?\s+half|an?\s+couple\s+of|an?"
)
_NUMBER = rf"(?:{_DIGITS}|{_SPELLED})"
_HALF = r"(?:\s+and\s+an?\s+(half|quarter))"
_NAMES = sorted(UNITS, key=len, reverse=True)
_UNIT = "|".join(_NAMES)
_LONG_UNIT = "|".join(name for name in _NAMES if len(name) > 1)  # "as" is not "a second"
_AMOUNT = re.compile(
    rf"(?<![\w.])({_NUMBER}){_HALF}?"
    rf"(?:(?:\s*(?:or|to|and|/|–|-)\s*)({_NUMBER}){_HALF}?)?"
    r"(?:[\s-]+(?:full|whole|entire|long|complete|calendar))?"
    rf"(?:(?<=[\d½])[\s-]*({_UNIT})|[\s-]+({_LONG_UNIT}))\b{_HALF}?"
)
_PART = {None: 0.0, "half": 0.5, "quarter": 0.25}
# How often: rewritten to "every …" before the amounts are read.
_FREQUENCIES = (
    (
        r"\b(?:twice|two times|2 times) (?:a|per|each|every) year\b|\bhalf-yearly\b",
        "every 26 weeks",
    ),
    (r"\b(?:twice|two times|2 times) (?:a|per|each|every) month\b", "every 2 weeks"),
    (
        r"\b(?:(?:once|one time) (?:a|per|each|every)|each) (week|fortnight|month|year)\b",
        r"every 1 \1",
    ),
    (r"\bevery (?:other|second) (week|month|year)\b", r"every 2 \1s"),
    (r"\bevery (week|fortnight|month|year)\b", r"every 1 \1"),
    (r"\b(week|fortnight|month)ly\b", r"every 1 \1"),
    (r"\b(?:yearly|annually)\b", "every 1 year"),
    (r"\bonce every\b", "every"),
)
_COUNTS = {"twice": "2 times", "thrice": "3 times"}


def _number(text: str) -> float:
    """The number that a matched number phrase means."""
    words = re.sub(r"^an?\s+(?=\w)", "", text.replace("-", " ").strip())
    if re.fullmatch(r"half(\s+an?)?|½", words):
        return 0.5
    if words.startswith("couple"):
        return 2.0
    if re.fullmatch(r"an?", words):
        return 1.0
    if words[0].isdigit():
        return float(words.rstrip("½ ")) + (0.5 if words.endswith("½") else 0.0)
    total, group = 0.0, 0.0
    for word in words.split():
        if word == "thousand":
            total, group = total + (group or 1.0) * 1000.0, 0.0
        elif word in _SCALES:
            group = (group or 1.0) * _SCALES[word]
        elif word != "and":
            group += _WORDS[word]
    return total + group


def normalise(text: str) -> str:
    """Lower case with one kind of hyphen and apostrophe, digits ungrouped; lengths may change."""
    text = text.replace("’", "'").replace("‑", "-").replace("—", ", ")
    text = re.sub(r"(\d)\s?A\b", r"\1 amp", text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).lower()
    for pattern, replacement in _FREQUENCIES:
        text = re.sub(pattern, replacement, text)
    return re.sub(r"\b(twice|thrice)\b", lambda match: _COUNTS[match[1]], text)


def quantities(text: str) -> tuple[Quantity, ...]:
    """All amounts with a unit in a text that went through :func:`normalise`, in order.

    "12 or 24 months" are two amounts; "1 year and 6 months" is one.
    """
    found: list[Quantity] = []
    for match in _AMOUNT.finditer(text.lower()):
        first, first_half, second, second_half, close_unit, unit, after = match.groups()
        dimension, scale = UNITS[close_unit or unit]
        for number, half in ((first, first_half), (second, second_half)):
            if number is not None:
                amount = (_number(number) + _PART[half] + _PART[after]) * scale
                found.append(Quantity(dimension, amount, match.start(), match.end()))
    return _join(text, found)


def _join(text: str, found: list[Quantity]) -> tuple[Quantity, ...]:
    """Adds up neighbours that are one amount in two units ("1 kg 500 g", "1 year and 6 months")."""
    joined: list[Quantity] = []
    for quantity in found:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.dimension == quantity.dimension
            and last.start != quantity.start
            and re.fullmatch(r"\s*(?:and\s+)?", text[last.end : quantity.start])
            and _unit(text, quantity) < _unit(text, last)
        ):
            joined[-1] = Quantity(
                last.dimension, last.amount + quantity.amount, last.start, quantity.end
            )
        else:
            joined.append(quantity)
    return tuple(joined)


def _unit(text: str, quantity: Quantity) -> float:
    """The size of the unit that ends a quantity's span."""
    words = re.findall(r"[a-z]+", text[quantity.start : quantity.end].lower())
    return next(UNITS[word][1] for word in reversed(words) if word in UNITS)


def same_amount(left: float, right: float, tolerance: float) -> bool:
    """Equal up to what units leave open (30 days and a month, 52 weeks and a year)."""
    return abs(left - right) <= tolerance * max(abs(left), abs(right))
