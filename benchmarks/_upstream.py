"""An OpenAI-compatible server that streams at a set pace: ``python -m benchmarks._upstream PORT``.

A model's name says how it answers: ``NAME-RATE-TOKENS`` gives so many tokens of four characters,
so many in a second, each at its own time whatever the reader does. No two names say the same.
"""

from __future__ import annotations

import asyncio
import json
import sys

CHARACTERS = 4  # of a token


def piece(model: str, text: str, finish_reason: str | None = None) -> bytes:
    """One event with the fields that vLLM sends, as a chunk of HTTP."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None,
              "finish_reason": finish_reason}  # fmt: skip
    event = {"id": "chatcmpl-" + "0" * 32, "object": "chat.completion.chunk",
             "created": 1_700_000_000, "model": model, "choices": [choice]}  # fmt: skip
    return chunk(b"data: " + json.dumps(event).encode() + b"\n\n")


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read a request, stream its answer, and close."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:", 1)[1].split("\r\n", 1)[0])
        model = json.loads(await reader.readexactly(length))["model"]
        name, rate, tokens = model.rpartition("/")[2].split("-")
        loop = asyncio.get_running_loop()
        begin = loop.time()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        token = piece(model, (name + "    ")[: CHARACTERS - 1] + " ")
        for number in range(int(tokens)):
            await asyncio.sleep(begin + (number + 1) / float(rate) - loop.time())
            writer.write(token)
            await writer.drain()
        writer.write(piece(model, "", "stop") + chunk(b"data: [DONE]\n\n") + chunk(b""))
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the reader has gone
    finally:
        writer.close()


async def serve(port: int) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
