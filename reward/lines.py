"""JSON lines that a run appends to as it goes.

Standard library only. A killed run leaves whole lines and at most one part of a line; what is read
back is whole lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]  # what a line holds


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append one line per record, and see them on the disk before returning."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def whole_records(path: Path) -> list[Record]:
    """The records of the whole lines; a part that a killed run left at the end is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return [json.loads(line) for line in content[:end].splitlines()]


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the whole file anew; readers see the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    append_records(temporary, records)
    os.replace(temporary, path)
