"""Answers that are started together: which ones, and the keys and values that they attend to.

G prompts of a block, n rows of a prompt, R rows, Q prompt tokens, T answer tokens, H heads, K heads
of keys, D channels of a head.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_loop.policy import chunks

PADDED = 1.5  # a block's prompts may be this many times as long, padded, as they are
SMALLEST = 32  # rows: a smaller block is padded more rather than cut


class Group(NamedTuple):
    """A prompt and the answers to it, by their numbers."""

    prompt: list[int]
    answers: list[int]


def plan_blocks(prompts: Sequence[list[int]], rows: int) -> deque[list[Group]]:
    """Which prompts are started together: alike in length and in their number of answers.

    Long prompts first. Where not all answers can be drawn side by side, a block has half of the
    ``rows``, so that one is started while another is thinning out.
    """
    numbers: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        numbers.setdefault(tuple(prompt), []).append(i)
    most = rows if len(prompts) <= rows else max(min(rows, SMALLEST), rows // 2)
    groups = [
        Group(list(prompt), answers[part])
        for prompt, answers in numbers.items()
        for part in chunks(len(answers), most)
    ]
    groups.sort(key=lambda group: (-len(group.answers), -len(group.prompt)))
    blocks: deque[list[Group]] = deque()
    for group in groups:
        if blocks and _fits([*blocks[-1], group], most):
            blocks[-1].append(group)
        else:
            blocks.append([group])
    return blocks


def _fits(groups: Sequence[Group], most: int) -> bool:
    rows = sum(len(group.answers) for group in groups)
    real = sum(len(group.answers) * len(group.prompt) for group in groups)
    padded = len(groups) * len(groups[0].answers) * max(len(group.prompt) for group in groups)
    return rows <= most and (rows <= SMALLEST or padded <= PADDED * real)


class Block:
    """Answers that were started together, R rows, and the keys and values that they attend to.

    Those of the prompts are kept once for each prompt, those of an answer's own tokens row by row.
    Rows that are done leave: the last ones take their places.
    """

    def __init__(self, groups: Sequence[Group], device: Any) -> None:
        self.prompts = [group.prompt for group in groups]
        self.lengths = [len(prompt) for prompt in self.prompts]  # of G prompts
        self.homes = [g for g, group in enumerate(groups) for _ in group.answers]  # of R rows
        self.answers = torch.tensor([i for group in groups for i in group.answers], device=device)
        self.tokens = torch.zeros_like(self.answers)  # (R,) drawn last
        self.step = 0  # tokens of every answer that have gone through the model
        self._prompt: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, (G, K, Q, D) each
        self._own: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, (≥ R, K, ≥ T, D) each
        self._arrange()

    def __len__(self) -> int:
        return len(self.homes)

    def positions(self) -> Tensor:
        """(R,) where the tokens drawn last stand in their rows."""
        return self._starts + self.step

    def _arrange(self) -> None:
        """Where rows stand among the n places that every prompt has."""
        device, count = self.answers.device, len(self.lengths)
        self.width = max(self.lengths, default=0)
        self._starts = torch.tensor([self.lengths[g] for g in self.homes], device=device)
        taken = [0] * count
        slots = []
        for g in self.homes:
            slots.append((g, taken[g]))
            taken[g] += 1
        self._places = max(taken, default=0)  # n
        self._slots: Tensor | None = None
        self._rows: Tensor | None = None
        flat = [g * self._places + place for g, place in slots]
        if flat != list(range(count * self._places)):
            self._slots = torch.tensor(flat, device=device)  # (R,)
            self._rows = torch.zeros(count * self._places, dtype=torch.long, device=device)
            self._rows[self._slots] = torch.arange(len(flat), device=device)  # (G n,)
        self._masks: dict[tuple[int | None, int], Tensor | None] = {}

    def _by_prompt(self, x: Tensor) -> Tensor:
        """(R, K, H/K, C) as (G, K, n H/K, C); a place without a row holds another one's."""
        x = x if self._rows is None else x[self._rows]
        x = torch.unflatten(x, 0, (-1, self._places)).transpose(1, 2)
        return x.reshape(x.shape[0], x.shape[1], -1, x.shape[4])

    def _by_row(self, x: Tensor) -> Tensor:
        """(G, K, n H/K, C) as (R, K, H/K, C)."""
        x = torch.unflatten(x, 2, (self._places, -1)).transpose(1, 2).flatten(0, 1)
        return x if self._slots is None else x[self._slots]

    def _mask(self, window: int | None) -> Tensor | None:
        """(G, 1, 1, Q) True where a prompt's key may not be attended to; None where all may."""
        wanted = (window, 0 if window is None else self.step)
        if wanted not in self._masks:
            lengths = torch.tensor(self.lengths, device=self.answers.device)[:, None]  # (G, 1)
            places = torch.arange(self.width, device=lengths.device)
            mask = places >= lengths  # (G, Q)
            if window is not None:
                self._masks.pop((window, self.step - 1), None)
                mask = mask | (places <= lengths + self.step - window)
            self._masks[wanted] = mask[:, None, None] if bool(mask.any()) else None
        return self._masks[wanted]

    def remember(self, layer: int, first: int, keys: Tensor, values: Tensor) -> None:
        """Keep the keys and values (g, K, Q, D) of prompts ``first`` and those after it."""
        if layer not in self._prompt:
            shape = (len(self.lengths), *keys.shape[1:])
            self._prompt[layer] = (
                keys.new_empty(shape),
                values.new_empty(*shape[:3], values.shape[3]),
            )
        for kept, new in zip(self._prompt[layer], (keys, values), strict=True):
            kept[first : first + len(new)] = new

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float,
        window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """What the rows' newest tokens read from their prompts and from their own answers.

        ``query`` (H, R, D), ``key`` and ``value`` (K, R, D); returns (R, H, D).
        """
        rows, stored = key.shape[1], self.step + 1
        keys, values = self._extended(layer, key.transpose(0, 1), value.transpose(0, 1))
        first = 0 if window is None else max(0, stored - window)
        keys, values = keys[:rows, :, first:stored], values[:rows, :, first:stored]
        prompt_keys, prompt_values = (
            kept[: len(self.lengths), :, : self.width] for kept in self._prompt[layer]
        )
        asked = torch.unflatten(
            (query * scale).transpose(0, 1), 1, (key.shape[0], -1)
        )  # (R, K, H/K, D)
        own = asked @ keys.transpose(2, 3)  # (R, K, H/K, T)
        shared = self._by_prompt(asked) @ prompt_keys.transpose(2, 3)  # (G, K, n H/K, Q)
        mask = self._mask(window)
        if softcap is not None:
            own, shared = (softcap * torch.tanh(x / softcap) for x in (own, shared))
        if mask is not None:
            shared = shared.masked_fill(mask, float("-inf"))
        scores = torch.cat([self._by_row(shared), own], dim=-1)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        found = weights[..., self.width :] @ values  # (R, K, H/K, D)
        found = found + self._by_row(self._by_prompt(weights[..., : self.width]) @ prompt_values)
        return found.flatten(1, 2)

    def _extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values with the newest (R, K, D) among them."""
        stores = self._own.get(layer)
        if stores is None or stores[0].shape[2] == self.step:
            room = max(32, 2 * self.step)
            stores = (_with_room(key, room), _with_room(value, room))
            if self.step:
                for new, old in zip(stores, self._own[layer], strict=True):
                    new[:, :, : self.step] = old[: len(key), :, : self.step]
            self._own[layer] = stores
        for store, newest in zip(stores, (key, value), strict=True):
            store[: len(newest), :, self.step] = newest
        return stores

    def go_on(self, drawn: Tensor, going: Tensor) -> None:
        """Take the tokens drawn (R,), and let the rows leave that do not go on, (R,) False."""
        self.tokens = drawn
        flags = going.tolist()
        if all(flags):
            return
        order = _closed_up(flags)
        for stores in self._own.values():
            _move(stores, order, self.step)
        picked = torch.tensor(order, dtype=torch.long, device=drawn.device)
        self.tokens, self.answers = drawn[picked], self.answers[picked]
        homes = [self.homes[row] for row in order]
        left = set(homes)
        prompts = _closed_up([g in left for g in range(len(self.lengths))])
        for stores in self._prompt.values():
            _move(stores, prompts, self.width)
        self.lengths = [self.lengths[g] for g in prompts]
        new = {g: place for place, g in enumerate(prompts)}
        self.homes = [new[g] for g in homes]
        self._arrange()


def _with_room(newest: Tensor, room: int) -> Tensor:
    return newest.new_empty(newest.shape[0], newest.shape[1], room, newest.shape[2])


def _closed_up(kept: Sequence[bool]) -> list[int]:
    """The numbers of those kept; of the last ones each stands where one has left."""
    count = sum(kept)
    last = iter([i for i in range(count, len(kept)) if kept[i]])
    return [i if kept[i] else next(last) for i in range(count)]


def _move(stores: tuple[Tensor, Tensor], order: Sequence[int], width: int) -> None:
    """Put rows where ``order`` wants them, the first ``width`` of their tokens."""
    places = [place for place, row in enumerate(order) if place != row]
    rows = [order[place] for place in places]
    for store in stores if places else ():
        store[places, :, :width] = store[rows, :, :width]
