"""Human comparisons from elsewhere: a module per file format reads, ``importing`` writes the rows.

The readers are pure generators, file in and records out, and know nothing of Django.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from annotation_app.imports import hh_rlhf, pandalm, qa_feedback, trl
from annotation_app.imports.records import Record

READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    "hh-rlhf": hh_rlhf.read,
    "pandalm": pandalm.read,
    "qa-feedback": qa_feedback.read,
    "trl": trl.read,
}
