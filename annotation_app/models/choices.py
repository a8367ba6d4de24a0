"""The values that more than one table may hold, as forms show them and constraints enforce them."""

from collections.abc import Iterable
from functools import reduce
from operator import or_

from django.db import models
from django.db.models import Q


class Criterion(models.TextChoices):
    HELPFULNESS = "helpfulness"
    SAFETY = "safety"


class Strength(models.TextChoices):
    SIGNIFICANTLY_BETTER = "significantly_better"
    BETTER = "better"
    SLIGHTLY_BETTER = "slightly_better"
    NEGLIGIBLY_BETTER = "negligibly_better", "Negligibly better / unsure"


class Side(models.TextChoices):
    """A response within its comparison."""

    A = "a"
    B = "b"

    @property
    def other(self) -> "Side":
        return Side.B if self is Side.A else Side.A


class Split(models.TextChoices):
    TRAIN = "train"
    HOLDOUT = "holdout"


class RiskCategory(models.TextChoices):
    ILLICIT_AND_CRIMINAL = "illicit_and_criminal"
    HATEFUL_AND_HARMFUL = "hateful_and_harmful"
    UNQUALIFIED_ADVICE = "unqualified_advice"


class AttackVector(models.TextChoices):
    """How a prompt tries to make a model fail (Llama 2 paper, section 4.2.1)."""

    PSYCHOLOGICAL = "psychological"
    LOGIC = "logic"
    SYNTACTIC = "syntactic"
    SEMANTIC = "semantic"
    PERSPECTIVE = "perspective_manipulation"
    NON_ENGLISH = "non_english", "Non-English"
    OTHER = "other"


class KeyLayout(models.TextChoices):
    """Which keys answer on the judging page; ``annotation_app.keys`` says which is which."""

    STANDARD = "standard", "1 … 8, Q W E R"
    AZERTY = "azerty", "1 … 8, A Z E R (AZERTY)"
    HOME_ROW = "home_row", "A S D F J K L ;, W E I O"
    LEFT_HAND = "left_hand", "left hand: 1 … 8, Q W E R, Z to undo"
    NONE = "none", "no single-letter keys"


def one_of(field: str, values: Iterable[str]) -> Q:
    """The condition of a check constraint: the column holds one of these values."""
    return Q(**{f"{field}__in": list(values)})


def exactly_one_of(*fields: str) -> Q:
    """The condition of a check constraint: of these columns one is filled, no more."""
    return reduce(
        or_, (Q(**{f"{name}__isnull": name != filled for name in fields}) for filled in fields)
    )
