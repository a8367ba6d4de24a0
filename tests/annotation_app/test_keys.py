"""The keys of the judging page."""

from __future__ import annotations

import pytest

from annotation_app import keys
from annotation_app.models import KeyLayout


@pytest.mark.parametrize("name", KeyLayout.values)
def test_no_key_does_two_things(name):
    layout = keys.layout(name)
    assert len(set(layout.values())) == len(layout)


@pytest.mark.parametrize("name", [name for name in KeyLayout.values if name != KeyLayout.NONE])
def test_everything_the_help_names_has_a_key(name):
    assert len(keys.described(name)) == len(keys.NAMES)
