"""The storage root: the one module that turns keys into files. Rows hold keys and sha256 only."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from reward.run_folder import replace_folder


def path(key: str) -> Path:
    """Where a key lies. Raises ValueError for a key that leaves the root."""
    root = settings.STORAGE_ROOT
    found = (root / key).resolve()
    if not key or not found.is_relative_to(root.resolve()) or found == root.resolve():
        raise ValueError(f"storage key is {key!r}, allowed are paths below the storage root")
    return found


def file_sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """One hash over the names and contents of a folder's files, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\x00{file_sha256(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def new(key: str) -> Iterator[Path]:
    """Where a new file or folder is to be written; nothing of it stays where that fails, lest a
    full disk is filled again by what nobody knows of."""
    target = path(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield target
    except BaseException:
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)
        raise


def adopt(folder: Path, key: str) -> Path:
    """Copy a folder from outside into the root; whole or not at all."""
    target = path(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(target, lambda new: shutil.copytree(folder, new, dirs_exist_ok=True))
    return target
