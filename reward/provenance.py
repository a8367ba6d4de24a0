"""What a run was made of, so that it can be made again from its folder alone. Standard library."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "peft", "bitsandbytes", "safetensors",
    "numpy",
)  # fmt: skip


def provenance(inputs: Mapping[str, Path | None]) -> dict[str, Any]:
    """The sha256 of every input, the versions of the libraries, the commit of this code, and on how
    many threads: sums in another order are rounded otherwise.

    Inputs that are None are left out. Raises OSError for one that cannot be read.
    """
    return {
        "inputs": {name: digest(path) for name, path in inputs.items() if path is not None},
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": _threads(),
    }


def digest(path: Path) -> str:
    """The sha256 of a file, or of a folder's files: their names and their own digests, in order."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "".join(f"{file.relative_to(path).as_posix()} {digest(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _threads() -> str:
    """On how many threads torch computes; where it is not loaded, on how many it would."""
    if (torch := sys.modules.get("torch")) is not None:
        return str(torch.get_num_threads())
    return os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))


def _commit() -> str | None:
    """The commit that is checked out here, "+" behind it where what a run executes differs from
    it; None where this code is in no git."""
    here = Path(__file__).parent
    executed = [str(here), str(here.parent / "rlhf_loop")]
    try:
        _git(here, "ls-files", "--error-unmatch", __file__)  # not another project's repository
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--", *executed)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
    ).stdout.strip()
