"""What is drawn and the random numbers that draw it. N answers, T tokens, R rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf_loop.drawing.tokens import draw_tokens
from rlhf_loop.policy import Answer, Drawing


class Record:
    """What is drawn: N answers of at most T tokens, and the random numbers that draw them."""

    def __init__(self, count: int, drawing: Drawing, seeds: Sequence[int], stops: Tensor) -> None:
        length, device = drawing.max_new_tokens, stops.device
        self.drawing, self.stops = drawing, stops
        noise = [_uniforms(seed, length) for seed in seeds]
        self._noise = torch.stack(noise).to(device) if noise else torch.zeros(0, length)  # (N, T)
        self._tokens = torch.zeros(count, length, dtype=torch.long, device=device)  # (N, T)
        self._logprobs = torch.zeros(count, length, device=device)  # (N, T)
        self._lengths = torch.full((count,), length, device=device)  # (N,)
        self._finished = torch.zeros(count, dtype=torch.bool, device=device)  # (N,)

    def draw(self, logits: Tensor, answers: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and note token number ``steps`` of ``answers``, both (R,), from ``logits`` (R, V).

        Returns the tokens (R,), and (R,) True where an answer goes on: it ends with a stop token or
        at the longest allowed length.
        """
        noise, drawing = self._noise[answers, steps], self.drawing
        drawn, logprobs = draw_tokens(logits, noise, drawing.temperature, drawing.top_p)
        self._tokens[answers, steps] = drawn
        if logprobs is not None:
            self._logprobs[answers, steps] = logprobs
        stopping = torch.isin(drawn, self.stops)
        self._finished[answers] = stopping
        self._lengths[answers] = steps + 1
        return drawn, ~stopping & (steps + 1 < drawing.max_new_tokens)

    def answers(self) -> list[Answer]:
        lengths, finished = self._lengths.tolist(), self._finished.tolist()
        tokens, logprobs = self._tokens.tolist(), self._logprobs.tolist()
        known = self.drawing.temperature > 0
        return [
            Answer(row[:count], done, found[:count] if known else None)
            for row, count, done, found in zip(tokens, lengths, finished, logprobs, strict=True)
        ]


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
