"""Filters of the templates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from annotation_app.forms import in_words
from annotation_app.keys import shown
from annotation_app.markdown import render_markdown
from annotation_app.tables import in_figures

register = template.Library()
register.filter("markdown", render_markdown)
register.filter("in_words", in_words)


@register.simple_tag(takes_context=True)
def section(context: Mapping[str, Any], name: str, label: str) -> SafeString:
    """A link of the main navigation; marked on the page itself and on those under it."""
    address, path = reverse(name), context["request"].path
    current = "page" if path == address else "true" if path.startswith(f"{address}/") else ""
    marked = format_html(' aria-current="{}"', current) if current else ""
    return format_html('<a href="{}"{}>{}</a>', address, marked, label)


@register.simple_tag
def new_key() -> str:
    """A form's own key, so that a form sent twice asks once."""
    return str(uuid4())


@register.filter
def percent(share: Any) -> str:
    """0.634 → 63.4 %; a dash where a figure is undefined."""
    return "–" if share is None or share == "" else f"{100 * float(share):.1f} %"


@register.filter
def interval(share: Any) -> str:
    """A share with its interval and count; "undefined" of nothing."""
    if math.isnan(share.share):
        return "undefined"
    low, high = percent(share.low), percent(share.high)
    return f"{percent(share.share)} ({low} to {high}, {share.total})"


@register.filter
def coefficient(found: Any) -> str:
    """An agreement with its interval; "undefined" where it is."""
    if math.isnan(found.coefficient):
        return "undefined"
    if math.isnan(found.low):
        return f"{found.coefficient:.2f}"
    return f"{found.coefficient:.2f} ({found.low:.2f} to {found.high:.2f})"


@register.filter
def words(name: str) -> str:
    """significantly_better → significantly better."""
    return str(name).replace("_", " ")


@register.filter
def key(layout: Mapping[str, str], action: str) -> str:
    """The key of an action as the page prints it; nothing where it has none."""
    return shown(layout.get(action, ""))


@register.filter
def figure(value: Any) -> str:
    """A number with four significant places; anything else as it is."""
    return in_figures(value) if isinstance(value, float) else str(value)


@register.filter
def signed(value: float) -> str:
    """A change: +0.25, −1.5."""
    return in_figures(value, "+.3g")
