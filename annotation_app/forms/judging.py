"""The judgement of a comparison, in the annotator's own terms."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from django import forms
from django.utils.functional import cached_property

from annotation_app.models import (
    Annotation,
    Criterion,
    Reason,
    Side,
    Strength,
)
from annotation_app.models.remark import LONGEST_COMMENT, RATINGS

STRENGTHS = list(Strength)
PREFERENCES = [f"left_{s}" for s in STRENGTHS] + [f"right_{s}" for s in reversed(STRENGTHS)]
SAFE = {  # which of the two are safe: (left, right)
    "left": (True, False),
    "both": (True, True),
    "neither": (False, False),
    "right": (False, True),
}
SAFE_LABELS = {"left": "only left", "both": "both", "neither": "neither", "right": "only right"}
CHOOSE = "Choose which response is better, and how much."
WHICH_ARE_SAFE = "Say which of the two responses are safe."
CONTRADICTION = (
    "The response you prefer is marked unsafe and the other one safe. On safety the safe response "
    "is the better one: change the choice or the marks."
)
LONGEST = 86_400  # seconds


class Preference(NamedTuple):
    """One of the eight answers, as the page offers it."""

    value: str
    side: str
    label: str


def preferences() -> list[Preference]:
    """The eight answers from "Left significantly better" to "Right significantly better"."""
    found = []
    for value in PREFERENCES:
        side, _, strength = value.partition("_")
        found.append(Preference(value, side, str(Strength(strength).label)))
    return found


class LinesField(forms.CharField):
    """A text of several lines, each ended by \\n alone, whatever the browser sends.

    The page does not cut what is too long: it comes back whole, with a sentence.
    """

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        return str(super().to_python(value)).replace("\r\n", "\n").strip()

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        attrs = super().widget_attrs(widget)
        attrs.pop("maxlength", None)
        return attrs


class Asked(Protocol):
    """What the form must know of a question: safety marks or not, and which side stands left."""

    @property
    def criterion(self) -> str: ...
    @property
    def shown_left(self) -> str: ...


def a_and_b(question: Asked, left: Any, right: Any) -> tuple[Any, Any]:
    """The one place where left and right become a and b."""
    return (left, right) if question.shown_left == Side.A else (right, left)


def rating_field() -> forms.TypedChoiceField:
    return forms.TypedChoiceField(
        choices=[(str(rating), str(rating)) for rating in RATINGS],
        required=False, coerce=int, empty_value=None,
        error_messages={"invalid_choice": "A rating is a whole number from 1 to 7."},
    )  # fmt: skip


def reasons_field() -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(
        choices=Reason.choices,
        required=False,
        error_messages={"invalid_choice": "“%(value)s” is not one of the reasons."},
    )


class NoteForm(forms.Form):
    """What an annotator notes to an answer: ratings, reasons, a comment, all optional."""

    left_rating = rating_field()
    right_rating = rating_field()
    left_tags = reasons_field()
    right_tags = reasons_field()
    comment = LinesField(max_length=LONGEST_COMMENT, required=False)

    def __init__(self, question: Asked, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.question = question

    def remark(self) -> dict[str, Any]:
        """What was noted, in the row's terms; empty where nothing was."""
        found = self.cleaned_data
        a_rating, b_rating = a_and_b(self.question, found["left_rating"], found["right_rating"])
        a_tags, b_tags = a_and_b(self.question, found["left_tags"], found["right_tags"])
        noted = {
            "a_rating": a_rating,
            "b_rating": b_rating,
            "a_tags": [reason for reason in Reason.values if reason in a_tags],
            "b_tags": [reason for reason in Reason.values if reason in b_tags],
            "comment": found["comment"],
        }
        return noted if any(noted.values()) else {}


class AnnotationForm(forms.Form):
    """One judgement in the annotator's own terms, left and right, and their note to it."""

    preference = forms.ChoiceField(
        choices=[(value, value) for value in PREFERENCES],
        error_messages={"required": CHOOSE},
    )
    safe = forms.ChoiceField(choices=[(value, value) for value in SAFE], required=False)
    active_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    idle_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    left_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    right_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    guideline_version = forms.IntegerField(required=False, min_value=1, max_value=32_767)

    def __init__(self, question: Asked, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.question = question

    @cached_property
    def note(self) -> NoteForm:
        return NoteForm(self.question, self.data if self.is_bound else None)

    @property
    def has_note(self) -> bool:
        """Whether anything was noted: most answers come without, and are spared the form."""
        return any(self.data.get(name) for name in NoteForm.base_fields)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.has_note:
            for errors in self.note.errors.values():
                self.add_error(None, errors)
        if self.question.criterion != Criterion.SAFETY:
            cleaned["safe"] = ""
            return cleaned
        if not cleaned.get("safe"):
            raise forms.ValidationError(WHICH_ARE_SAFE)
        side, _, _ = str(cleaned.get("preference", "")).partition("_")
        if side and cleaned["safe"] in ("left", "right") and cleaned["safe"] != side:
            raise forms.ValidationError(CONTRADICTION)
        return cleaned

    def answer(self) -> dict[str, Any]:
        """The judgement in the row's terms."""
        side, _, strength = self.cleaned_data["preference"].partition("_")
        a_side, _ = self._a_and_b("left", "right")
        a_safe, b_safe = self._a_and_b(*SAFE.get(self.cleaned_data["safe"], (None, None)))
        a_seconds, b_seconds = self._a_and_b(
            self.cleaned_data["left_seconds"], self.cleaned_data["right_seconds"]
        )
        return {
            "choice": (Side.A if side == a_side else Side.B).value,
            "strength": strength,
            "a_safe": a_safe,
            "b_safe": b_safe,
            "active_seconds": self.cleaned_data["active_seconds"],
            "idle_seconds": self.cleaned_data["idle_seconds"],
            "guideline_version": self.cleaned_data["guideline_version"],
            "a_seconds": a_seconds,
            "b_seconds": b_seconds,
        }

    def remark(self) -> dict[str, Any]:
        """What was noted, in the row's terms; empty where nothing was."""
        return self.note.remark() if self.has_note else {}

    def _a_and_b(self, left: Any, right: Any) -> tuple[Any, Any]:
        return a_and_b(self.question, left, right)


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=500, required=False)


def as_given(annotation: Annotation) -> dict[str, str]:
    """A stored judgement as the annotator gave it: left and right, as ``AnnotationForm`` has them.

    The way back from ``AnnotationForm.answer``. Empty where there is nothing of the kind.
    """
    side = "left" if annotation.choice == annotation.shown_left else "right"
    preference = f"{side}_{annotation.strength}"
    marks = (annotation.a_safe, annotation.b_safe)
    if annotation.shown_left != Side.A:
        marks = marks[::-1]
    return {
        "preference": preference if preference in PREFERENCES else "",
        "safe": next((name for name, safe in SAFE.items() if safe == marks), ""),
    }


def in_words(annotation: Annotation) -> str:
    """A stored judgement as a phrase: "Left slightly better; safe: both"."""
    given = as_given(annotation)
    offered = {p.value: f"{p.side.capitalize()} {p.label.lower()}" for p in preferences()}
    said = offered.get(given["preference"], "No side")
    return f"{said}; safe: {SAFE_LABELS[given['safe']]}" if given["safe"] else said
