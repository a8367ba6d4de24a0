"""Disks that are full when a test says so: a real one, and one that anybody may have."""

from __future__ import annotations

import resource
import shutil
import subprocess
from pathlib import Path

NO_MOUNT = "NO FILE SYSTEM MAY BE MOUNTED HERE, so full disks were stood in for by a limit of files"


class MountedDisk:
    """A real file system of eight megabytes; mounting takes rights that not everybody has."""

    says = "No space left on device"

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
        self.is_there = not (
            shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode
        )

    def fill(self, but: int) -> None:
        """Take all of it but so many bytes."""
        free = shutil.disk_usage(self.path).free
        (self.path / "filler").write_bytes(bytes(max(free - but, 0)))

    def make_room(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def leave(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


class LimitedFiles:
    """A folder in which this process may write no file longer than the room that is left: the
    writes that fail on a full disk fail here too, with another number (setrlimit(2))."""

    says = "File too large"
    is_there = True

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, but: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (but, self.before[1]))

    def make_room(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    leave = make_room
