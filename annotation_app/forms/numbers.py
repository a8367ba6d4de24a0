"""Numbers within limits: a refusal names what was sent and what is allowed."""

from __future__ import annotations

from typing import Any

from django import forms

LONGEST_SHOWN = 40  # characters of what was sent


class WholeNumberField(forms.IntegerField):
    def clean(self, value: Any) -> Any:
        try:
            return super().clean(value)
        except forms.ValidationError:
            raise _refusal(self, value, "a whole number") from None


class NumberField(forms.FloatField):
    def clean(self, value: Any) -> Any:
        try:
            return super().clean(value)
        except forms.ValidationError:
            raise _refusal(self, value, "a number") from None


def _refusal(field: WholeNumberField | NumberField, value: Any, what: str) -> forms.ValidationError:
    allowed = f"allowed is {what} from {field.min_value} to {field.max_value}"
    allowed += "" if field.required else ", or nothing"
    sent = "missing" if value in field.empty_values else repr(str(value)[:LONGEST_SHOWN])
    return forms.ValidationError(f"{field.label} is {sent}, {allowed}.")
