"""Questions of gates, grades, and documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from annotation_app import qualification_document
from annotation_app.forms.judging import SAFE, AnnotationForm
from annotation_app.forms.writing import LONGEST_PROMPT
from annotation_app.models import (
    AttemptAnswer,
    Side,
)

LARGEST_DOCUMENT = 2_000_000  # characters or bytes
MOST_FAULTS = 50  # shown at once
GRADES = {
    5: "could be published as it is",
    4: "good, with a small defect",
    3: "usable after editing",
    2: "more wrong than right",
    1: "unusable",
}
COMPARED = ("choice", "strength", "a_safe", "b_safe")  # of AnnotationForm.answer()


class OptionForm(forms.Form):
    """One of a question's options, by its number from 0."""

    option = forms.TypedChoiceField(
        coerce=int, error_messages={"required": "Choose one of the answers."}
    )

    def __init__(self, options: Sequence[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["option"].choices = list(enumerate(options))  # type: ignore[attr-defined]

    def answer(self) -> dict[str, Any]:
        return {"option": self.cleaned_data["option"]}


class ComparedForm(AnnotationForm):
    """The judging page's form for a question of a gate, filled with what is stored."""

    def __init__(self, stored: AttemptAnswer, *args: Any, **kwargs: Any) -> None:
        super().__init__(stored, *args, **kwargs)
        is_left = stored.choice == stored.shown_left
        safe = (stored.a_safe, stored.b_safe)
        shown = safe if stored.shown_left == Side.A else safe[::-1]
        self.initial["safe"] = next((name for name, marks in SAFE.items() if marks == shown), "")
        if stored.choice:
            self.initial["preference"] = f"{'left' if is_left else 'right'}_{stored.strength}"

    def answer(self) -> dict[str, Any]:
        judged = super().answer()
        return {name: judged[name] for name in COMPARED}


class WrittenForm(forms.Form):
    """A text to be graded; an empty one takes the answer back."""

    text = forms.CharField(
        required=False,
        max_length=LONGEST_PROMPT,
        widget=forms.Textarea(attrs={"rows": 12}),
        label="Your text",
    )

    def answer(self) -> dict[str, Any]:
        return {"text": self.cleaned_data["text"]}


class GradeForm(forms.Form):
    grade = forms.TypedChoiceField(
        coerce=int,
        choices=list(GRADES.items()),
        error_messages={"required": "Choose a grade from 1 to 5."},
    )
    comment = forms.CharField(
        required=False,
        max_length=2_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        label="Comment, which the author will read",
    )


class GradingStepForm(forms.Form):
    """Beside a grade: which one it corrects, and the grade whose result may be announced."""

    corrects = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    sure = forms.IntegerField(required=False)


class QualificationForm(forms.Form):
    """A document, pasted or as a file; a file with faults stands in the field to be mended."""

    file = forms.FileField(required=False, label="JSON file")
    text = forms.CharField(
        required=False,
        max_length=LARGEST_DOCUMENT,
        widget=forms.Textarea(attrs={"rows": 20, "spellcheck": "false"}),
        label="or the document itself",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        text = str(cleaned.get("text", ""))
        if (file := cleaned.get("file")) is not None:
            text = self._read(file)
            self.data = self.data.copy()  # type: ignore[attr-defined]
            self.data["text"] = text  # type: ignore[index]
        if not text.strip() and not self.errors:
            raise forms.ValidationError("Choose a file or paste a document.")
        if not self.errors:
            cleaned["document"] = self._document(text)
        return cleaned

    def _read(self, file: Any) -> str:
        if file.size > LARGEST_DOCUMENT:
            limit = f"{LARGEST_DOCUMENT // 1_000_000} MB"
            raise forms.ValidationError(f"{file.name} is larger than the allowed {limit}.")
        try:
            return str(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise forms.ValidationError(f"{file.name} is not text in UTF-8.") from error

    def _document(self, text: str) -> qualification_document.Document | None:
        try:
            return qualification_document.read(text)
        except qualification_document.Malformed as error:
            shown = error.faults[:MOST_FAULTS]
            if more := len(error.faults) - len(shown):
                shown.append(f"And {more} more.")
            raise forms.ValidationError(shown) from error
