"""What collectstatic leaves: every name hashed, also between our own script modules."""

from __future__ import annotations

import re

import pytest
from django.conf import settings as project
from django.core.management import call_command

HASHED = re.compile(r'from "\.\.?/[\w/]+\.[0-9a-f]{12}\.js"')
COLLECTED = dict(project.STORAGES)


@pytest.fixture
def static_root(settings, tmp_path):
    settings.STORAGES = COLLECTED
    settings.STATIC_ROOT = tmp_path
    call_command("collectstatic", interactive=False, verbosity=0)
    return tmp_path


def test_modules_import_each_other_by_hashed_names(static_root):
    for name, count in (("judge/page", 4), ("dialogue", 3), ("playground", 2), ("attempt", 1)):
        (page,) = static_root.glob(f"tandem/{name}.????????????.js")
        imports = [line for line in page.read_text().splitlines() if line.startswith("import ")]
        assert len(imports) == count, name
        assert all(HASHED.search(line) for line in imports), name
