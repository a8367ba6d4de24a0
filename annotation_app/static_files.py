"""How style sheets and scripts are named and served."""

from __future__ import annotations

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Hashed names, also where one script module imports another: a new version never mixes
    with a cached old one."""

    support_js_module_import_aggregation = True
