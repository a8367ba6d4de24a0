"""Filters of the templates."""

from __future__ import annotations

from typing import Any

from django import template

from annotation_app.markdown import render_markdown

register = template.Library()
register.filter("markdown", render_markdown)


@register.filter
def percent(share: Any) -> str:
    """0.634 → 63.4 %; a dash where a figure is undefined."""
    return "–" if share is None or share == "" else f"{100 * float(share):.1f} %"


@register.filter
def words(name: str) -> str:
    """significantly_better → significantly better."""
    return str(name).replace("_", " ")


@register.filter
def figure(value: Any) -> str:
    """A number with three significant places; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
