"""vLLM's protocol of token ids, as version 0.32 spoke it, in front of models that really draw."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from rlhf_loop.drawing import generate_answers
from rlhf_loop.policy import Drawing, load_chat_model, stop_tokens
from rlhf_loop.serving import Address
from tests.reward.chat_server import Answer, ChatServer


def address_with(server: ChatServer, loaded) -> Address:
    stops = tuple(sorted(stop_tokens(*loaded)))
    return Address(server.address, "policy", 10.0, 4, loaded[1], stops)


def only_messages(answer):
    """The same from a server that knows no token ids."""
    refused = Answer(b'{"detail": "prompt must be a string."}', 422)
    return lambda request: answer(request) if "messages" in request else refused


def as_vllm(loaded, **changed):
    """What vLLM answers to token ids, from the model and tokenizer here."""

    def answer(request):
        drawing = Drawing(request["max_tokens"], request["temperature"], request["top_p"])
        [drawn] = generate_answers(*loaded, [request["prompt"]], [request["seed"]], drawing, 1)
        choice = {
            "text": "", "finish_reason": "stop" if drawn.finished else "length",
            "token_ids": drawn.tokens, "prompt_token_ids": request["prompt"],
            "logprobs": {"token_logprobs": drawn.logprobs},
        } | changed  # fmt: skip
        return Answer(json.dumps({"choices": [choice]}).encode())

    return answer


class LastHanded:
    """Draws with the weights of the folder that its ``hand_over`` wrote into ``note`` last.

    It has one model at a time, under whatever name it is asked for, and takes over ``most``.
    """

    def __init__(self, note: Path, most: int = 1_000, **changed: Any) -> None:
        self.note, self.most, self.changed = note, most, changed
        self.folders: list[str] = []
        self._loaded: Any = None
        self._lock = threading.Lock()

    @property
    def hand_over(self) -> str:
        return f"sh -c 'printf %s \"$0\" > {self.note}' {{folder}}"

    def __call__(self, request: dict[str, Any]) -> Answer:
        with self._lock:
            folder = self.note.read_text()
            if folder not in self.folders[-1:] and len(self.folders) < self.most:
                self._loaded = load_chat_model(Path(folder), "cpu")
                self.folders.append(folder)
        return as_vllm(self._loaded, **self.changed)(request)
