"""Imported before anything of ours: tests never touch the checkout's own var folder."""

import atexit
import os
import shutil
import tempfile

import django

if "TANDEM_TEST_VAR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="tandem-tests-")
    os.environ["TANDEM_TEST_VAR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
os.environ["DJANGO_SETTINGS_MODULE"] = "annotation_app.settings"
# Tests that run side by side (pytest -n) have a folder each, and so have the processes they start.
os.environ["TANDEM_VAR"] = os.path.join(
    os.environ["TANDEM_TEST_VAR"], os.environ.get("PYTEST_XDIST_WORKER", "")
)
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # Playwright's loop runs in the tests' thread
os.environ["BEAT_SECONDS"] = "1"
django.setup()

from django.db import connection  # noqa: E402  (there are none before the settings are read)

if connection.vendor == "sqlite":
    # Rows nobody ordered come in any order on PostgreSQL: here backwards, so that a test sees it.
    connection.settings_dict["OPTIONS"]["init_command"] += "PRAGMA reverse_unordered_selects=ON;"
