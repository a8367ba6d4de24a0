"""One annotator's HTTP connection: kept alive, with a browser's cookies, and little more."""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import NamedTuple

SECONDS = 120


class Response(NamedTuple):
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def wait_until_answering(
    process: subprocess.Popen[bytes],
    port: int,
    path: str,
    seconds: float,
    what: str,
    status: int = http.client.OK,
) -> None:
    """Ask until this is the status. Raises TimeoutError; also when the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if Connection("127.0.0.1", port).request("GET", path).status == status:
                return
        except OSError:
            pass
        time.sleep(0.1)
    process.kill()
    raise TimeoutError(f"{what} did not answer within {seconds:g} s")


class Connection:
    """Keeps the TCP connection where the server allows it. Follows no redirects."""

    def __init__(self, host: str, port: int) -> None:
        self.http = http.client.HTTPConnection(host, port, timeout=SECONDS)
        self.cookies: dict[str, str] = {}

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> Response:
        """Send and read to the end; where the server has closed the connection, once more.

        Raises OSError when that fails too.
        """
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {**headers, **({"Cookie": cookies} if cookies else {})}
        try:
            return self._send(method, path, body, sent)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            return self._send(method, path, body, sent)

    def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        try:
            self.http.request(method, path, body or None, dict(headers))
            answer = self.http.getresponse()
            read = answer.read()
        except OSError:
            self.http.close()
            raise
        except http.client.HTTPException as error:
            self.http.close()
            raise ConnectionError(f"The answer was cut off: {error!r}") from error
        for line in answer.headers.get_all("Set-Cookie") or []:
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        found = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status, found, read)
