"""How style sheets and scripts are named and served."""

from __future__ import annotations

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Hashed names, also where one of our modules imports another: a new version never mixes
    with a cached old one.

    Django can do this for all scripts or none; a library's own scripts need not be modules.
    """

    _imports = CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns[1]
    patterns = (*CompressedManifestStaticFilesStorage.patterns, ("tandem/*.js", _imports))
