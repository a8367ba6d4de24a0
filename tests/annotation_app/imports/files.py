"""The real files, and small ones for the tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from django.core.management import call_command

from annotation_app import imports

DATA = Path(imports.__file__).parents[2] / "demo" / "data"
HH_RLHF = DATA / "hh-harmless-base.jsonl.gz"
PANDALM = DATA / "pandalm-three-annotators.json.gz"
QA_FEEDBACK = DATA / "qa-feedback-ranked.json.gz"


def hh_rlhf(count: int) -> list[dict]:
    with gzip.open(HH_RLHF, "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(count), file, strict=False)]


def array(path: Path) -> list[dict]:
    return json.loads(gzip.open(path).read())


def write_lines(path: Path, records: list) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_array(path: Path, records: list) -> Path:
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path


def import_file(path: Path, form: str, criterion: str = "helpfulness", batch: str = "Old") -> None:
    call_command("import_comparisons", str(path), format=form, criterion=criterion, batch=batch)
