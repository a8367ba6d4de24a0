"""What the page of a round shows of its release."""

from __future__ import annotations

from django import template

from annotation_app.models import Round
from annotation_app.release_figures import Standing, standing

register = template.Library()


@register.simple_tag
def standing_of(round_: Round) -> Standing:
    """What the decision about a round stands on."""
    return standing(round_)
