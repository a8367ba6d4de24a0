"""Numbers within limits: a refusal names what was sent and what is allowed."""

from __future__ import annotations

from typing import Any

from django import forms

LONGEST_SHOWN = 40  # characters of what was sent


class _Limited(forms.IntegerField):
    """What both have in common; Django's field of numbers is one of whole numbers too."""

    sort: str

    def clean(self, value: Any) -> Any:
        try:
            return super().clean(value)
        except forms.ValidationError:
            allowed = f"allowed is {self.sort} from {self.min_value} to {self.max_value}"
            allowed += "" if self.required else ", or nothing"
            sent = "missing" if value in self.empty_values else repr(str(value)[:LONGEST_SHOWN])
            raise forms.ValidationError(f"{self.label} is {sent}, {allowed}.") from None


class WholeNumberField(_Limited):
    sort = "a whole number"


class NumberField(_Limited, forms.FloatField):
    sort = "a number"
