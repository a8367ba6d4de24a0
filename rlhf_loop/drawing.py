"""Answers drawn from a policy, many side by side.

Answers to one prompt share its prefill and its keys and values; prompts that begin alike share that
too. Rows that have stopped leave at once, and others take their places. Every row draws with the
random numbers of its own seed, so an answer does not depend on which rows it was drawn with: what
neighbours change is the rounding of the model's logits (about 1e-6 of their size in float32), and
so a draw only where the random number lies that close to the edge between two tokens.

Attention does not go through transformers' cache. A model is told to attend through ``attend`` here
while it draws, which keeps a prompt's keys once, whatever the number of answers. Whether a model
can do that is found out by comparing its logits with its own plain ones; one that cannot draws row
by row with transformers' cache (``_draw_apart``).

Left out: transformers' continuous batching, far slower on a CPU (EXPERIMENTS.md); keys shared by
prompts that only begin alike, since sixteen answers to a prompt have saved nearly all there is.

G prompts of a block, n rows of a prompt, R rows, Q prompt tokens, T answer tokens, H heads, K heads
of keys, D channels of a head, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, DynamicCache

from reward.attention import Layout
from reward.attention import attend as attend_in_tree
from reward.prefix_tree import PrefixTree, prefix_tree
from reward.trunk import ALIKE, STUMBLES, sliding_window
from rlhf_loop.policy import (
    Answer,
    Drawing,
    accepted,
    chunks,
    left_pad,
    pad_token,
    position_ids,
    stop_tokens,
)

NAME = "drawing"
PREFILL_TOKENS = 8192  # prompts are put through the model this many tokens at a time
PADDED = 1.5  # a block's prompts may be this many times as long, padded, as they are
SMALLEST = 32  # rows: a smaller block is padded more rather than cut
STOPPED_SHARE = 0.125  # rows apart leave when this share has stopped: their whole cache is copied
BIN = 128  # tokens of the vocabulary whose probabilities are summed before one is looked for
LIKELIEST = 256  # tokens among which top-p looks first
ALIKE_IN_BFLOAT16 = 5e-2


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    drawing: Drawing,
    rows: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer for each prompt (token ids), in the prompts' order; equal prompts share theirs.

    At most ``rows`` answers are drawn side by side. ``progress`` is called with the number of
    answers done. No other change is made to the probabilities than temperature and top-p. The same
    call gives the same bits on the same CPU with as many threads. Raises ValueError for a prompt
    that leaves no room for an answer of ``drawing.max_new_tokens`` in the model's context.
    """
    _refuse_too_long(model, prompts, drawing.max_new_tokens)
    stops = torch.tensor(sorted(stop_tokens(model, tokenizer)), device=model.device)
    record = Record(len(prompts), drawing, seeds, stops)
    draw = _draw_shared if shares_prompts(model) else _draw_apart
    with torch.inference_mode():
        for done in draw(model, prompts, record, rows, pad_token(tokenizer)):
            progress(done)
    return record.answers()


def _refuse_too_long(model: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"a prompt has {longest} tokens, allowed are {context - max_new_tokens}: the model's "
            f"context of {context} less max_new_tokens {max_new_tokens}"
        )


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


# --- one token of every row ----------------------------------------------------------------------


def draw_tokens(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor | None]:
    """One token per row by the inverse of the cumulative distribution, and its log-probability.

    ``logits``: (R, V) float32; ``uniform``: (R,) in [0, 1). Temperature 0 takes the most likely
    token and has no log-probabilities. Top-p keeps the smallest set of most likely tokens whose
    probability reaches it, of equally likely ones those with the lower ids. Returns tokens (R,) and
    natural log-probabilities (R,) in the full softmax at the temperature, also under top-p. Raises
    ValueError for logits that are not finite.
    """
    if temperature == 0:
        return logits.argmax(dim=-1), None
    weights = logits - logits.amax(dim=-1, keepdim=True)  # (R, V)
    if temperature != 1:
        weights /= temperature
    weights.exp_()  # the likeliest is 1
    totals = _bins(weights).sum(dim=-1).sum(dim=-1, dtype=torch.float64)  # (R,)
    if not bool(totals.isfinite().all()):
        raise ValueError("the model's logits are not finite, so no token can be drawn from them")
    kept = weights if top_p >= 1.0 else _nucleus(weights, totals, top_p, LIKELIEST)
    drawn = _invert(kept, uniform.double())
    shares = weights.gather(-1, drawn[:, None])[:, 0].double() / totals
    return drawn, shares.log().float()


def _bins(weights: Tensor) -> Tensor:
    """(R, V) as (R, V / BIN, BIN), with zeros behind a last bin that is not full."""
    missing = -weights.shape[-1] % BIN
    return torch.unflatten(F.pad(weights, (0, missing)) if missing else weights, -1, (-1, BIN))


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """(R,) the token in whose stretch of the cumulative ``weights`` (R, V) ``uniform`` falls.

    First the bin, then the token in it, so that one pass over the vocabulary is enough. Sums of a
    bin are float32, everything beyond float64: a token is drawn with its weight's share to 1e-6 of
    that share, and never one of weight 0.
    """
    bins = _bins(weights)
    sums = bins.sum(dim=-1).double()  # (R, V / BIN)
    chosen, inside = _look_up(sums, uniform)
    rows = torch.arange(len(weights), device=weights.device)
    token, _ = _look_up(bins[rows, chosen].double(), inside)
    return chosen * BIN + token


def _look_up(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) where ``uniform`` falls in the cumulative ``weights`` (R, C), and how far in, [0, 1)."""
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = uniform[:, None] * total
    target = target.minimum(total.nextafter(torch.zeros_like(total)))  # never rounded up to it
    place = torch.searchsorted(cumulative, target, right=True)
    own = weights.gather(-1, place)
    start = cumulative.gather(-1, place) - own
    share = ((target - start) / own).clamp(0.0, 1.0)
    return place[:, 0], share[:, 0]


def _nucleus(weights: Tensor, totals: Tensor, top_p: float, likeliest: int) -> Tensor:
    """``weights`` (R, V), whose sums are ``totals`` (R,), with 0 for all outside the nucleus.

    It is looked for among the ``likeliest`` tokens, and among all in rows where these do not do.
    """
    count = min(likeliest, weights.shape[-1])
    top = weights.topk(count, dim=-1).values  # (R, count)
    shares = top.double() / totals[:, None]
    inside = shares.cumsum(dim=-1) - shares < top_p
    sizes = inside.sum(dim=-1)  # (R,)
    least = top.gather(-1, sizes[:, None] - 1)  # (R, 1)
    kept = weights.masked_fill(weights < least, 0.0)
    for row in ((kept > 0).sum(dim=-1) > sizes).nonzero()[:, 0].tolist():
        equal = (weights[row] == least[row]).nonzero()[:, 0]
        more = int((weights[row] > least[row]).sum())
        kept[row, equal[int(sizes[row]) - more :]] = 0.0
    rest = inside[:, -1] if count < weights.shape[-1] else torch.zeros_like(inside[:, -1])
    if bool(rest.any()):
        kept[rest] = _nucleus(weights[rest], totals[rest], top_p, weights.shape[-1])
    return kept


# --- rows that share their prompts ---------------------------------------------------------------


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


class Prefill:
    """Prompts on their way through the model, each distinct beginning once."""

    def __init__(self, block: Block, part: slice, device: Any) -> None:
        self.block, self.first = block, part.start
        tree = prefix_tree(block.prompts[part])
        self.tree = Layout(tree, device)
        self.index = torch.tensor(_packed_places(tree, block.width), device=device)  # (g, Q)
        self.windows: set[int | None] = set()

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float,
        window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        keys, values = (x[0][:, self.index].transpose(0, 1) for x in (key, value))
        self.block.remember(module.layer_idx, self.first, keys, values)
        found, _ = attend_in_tree(
            module, query, key, value, None, scaling=scale, layout=self.tree,
            sliding_window=window, softcap=softcap,
        )  # fmt: skip
        return found


def _packed_places(tree: PrefixTree, width: int) -> list[list[int]]:
    """Where each row's tokens stand in the tree, filled up to ``width``."""
    found = []
    for end in tree.ends:
        chain = next(chain for chain in tree.chains if chain.start <= end < chain.end)
        runs = [*chain.before, (chain.start, end + 1)]
        row = [place for start, stop in runs for place in range(start, stop)]
        found.append(row + [0] * (width - len(row)))
    return found


class Decode:
    """One token of every row on its way through the model."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.sizes = [len(block) for block in blocks]
        self.windows: set[int | None] = set()

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float,
        window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        parts = (torch.split(x[0], self.sizes, dim=1) for x in (query, key, value))
        found = [
            block.attend(module.layer_idx, q, k, v, scale, window, softcap)
            for block, q, k, v in zip(self.blocks, *parts, strict=True)
        ]
        return torch.cat(found)[None]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Prefill | Decode | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention of a model that was told NAME: ``query`` (1, H, N, D) → (1, N, H, D)."""
    if layout is None:
        raise ValueError("answers are being drawn by a model that was not told where they stand")
    layout.windows.add(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layout.attend(module, query, key, value, scale, sliding_window, softcap), None


AttentionInterface.register(NAME, attend)


_one_at_a_time = RLock()


@contextmanager
def _attending(model: Any) -> Iterator[None]:
    """A model that attends through ``attend``, in one thread at a time."""
    with _one_at_a_time:
        plain = model.config._attn_implementation
        try:
            model.set_attn_implementation(NAME)
            yield
        finally:
            model.set_attn_implementation(plain)


def _draw_shared(
    model: Any, prompts: Sequence[list[int]], record: Record, rows: int, pad: int
) -> Iterator[int]:
    """Draw all answers; yields how many are done whenever some are."""
    waiting, blocks = plan_blocks(prompts, rows), list[Block]()
    reported = 0
    with _attending(model):
        while waiting or blocks:
            while waiting and sum(map(len, blocks)) + _size(waiting[0]) <= rows:
                block = Block(waiting.popleft(), record.stops.device)
                logits = prefill(model, block)[block.homes]  # (R, V)
                _draw_next(record, [block], logits)
                blocks.append(block)
            blocks = [block for block in blocks if len(block)]
            if blocks:
                _draw_next(record, blocks, decode(model, blocks))
            blocks = [block for block in blocks if len(block)]
            done = len(prompts) - sum(map(len, blocks)) - sum(map(_size, waiting))
            if done > reported:
                reported = done
                yield done


def _size(groups: Sequence[Group]) -> int:
    return sum(len(group.answers) for group in groups)


def _draw_next(record: Record, blocks: Sequence[Block], logits: Tensor) -> None:
    """Draw the next token of every row of the blocks from ``logits`` (R, V)."""
    answers = torch.cat([block.answers for block in blocks])
    steps = torch.cat([torch.full_like(block.answers, block.step) for block in blocks])
    sizes = [len(block) for block in blocks]
    parts = (torch.split(x, sizes) for x in record.draw(logits, answers, steps))
    for block, drawn, going in zip(blocks, *parts, strict=True):
        block.go_on(drawn, going)


def prefill(model: Any, block: Block) -> Tensor:
    """Put the block's prompts through the model; returns the logits (G, V) behind each."""
    logits, start = [], 0
    for end in _prefill_ends(block.lengths):
        layout = Prefill(block, slice(start, end), block.answers.device)
        tree = layout.tree
        logits.append(_logits(model, tree.tokens, tree.positions, tree.places, layout))
        start = end
    return torch.cat(logits)


def _prefill_ends(lengths: Sequence[int]) -> list[int]:
    """Where to part prompts so that each part has PREFILL_TOKENS at most, or one prompt."""
    ends, tokens = [], 0
    for g, length in enumerate(lengths):
        if tokens and tokens + length > PREFILL_TOKENS:
            ends.append(g)
            tokens = 0
        tokens += length
    return [*ends, len(lengths)]


def decode(model: Any, blocks: Sequence[Block]) -> Tensor:
    """Put every row's newest token through the model; returns the next one's logits (R, V)."""
    tokens = torch.cat([block.tokens for block in blocks])[None]  # (1, R)
    positions = torch.cat([block.positions() for block in blocks])[None]
    logits = _logits(model, tokens, positions, None, Decode(blocks))
    for block in blocks:
        block.step += 1
    return logits


def _logits(
    model: Any, tokens: Tensor, positions: Tensor, read: Tensor | None, layout: Prefill | Decode
) -> Tensor:
    """The float32 logits at the packed places ``read``, or at all: (R, V)."""
    head = {} if read is None else accepted(model, logits_to_keep=read)
    output = model(input_ids=tokens, position_ids=positions, use_cache=False, layout=layout, **head)
    logits: Tensor = output.logits[0]
    return (logits if read is None or head else logits[read]).float()


# --- which models can ----------------------------------------------------------------------------

_shares: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def shares_prompts(model: Any) -> bool:
    """Whether the model's answers can share their prompts; found out once, and said where not."""
    if model not in _shares:
        why = _why_apart(model)
        if why:
            print(f"{model.name_or_path}: answers do not share their prompts, {why}.", flush=True)
        _shares[model] = not why
    return _shares[model]


def _why_apart(model: Any) -> str:
    """Why a model cannot draw with shared prompts, or "".

    Two prompts, three rows and three tokens are put through it both ways. An architecture whose
    attention does not hear of the rows (recurrent state, relative biases, sinks) is found by what
    it computes, whatever its name.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    strange = sorted(kinds - {"full_attention", "sliding_attention"})
    if strange:
        return f"it has layers of another kind: {', '.join(strange)}"
    numbers = torch.Generator().manual_seed(0)
    highest = model.config.get_text_config().vocab_size
    stem, tail, *answers = torch.randint(0, highest, (5, 12), generator=numbers).tolist()
    groups = [Group(stem + tail, [0, 1]), Group(stem[:9], [2])]
    rows = [groups[0].prompt + answers[0], groups[0].prompt + answers[1], stem[:9] + answers[2]]
    with torch.no_grad():
        expected = [_plain_logits(model, row)[-13:-9] for row in rows]
        try:
            with _attending(model):
                if model.config._attn_implementation != NAME:
                    return "its attention cannot be exchanged"
                found, windows = _forced_logits(model, groups, answers)
        except (torch.OutOfMemoryError, MemoryError):
            raise  # says nothing of what the model can do
        except STUMBLES as error:
            return f"{type(error).__name__}: {error}"
    wanted = torch.stack(expected)  # (3, 4, V)
    apart = ((found - wanted).norm() / wanted.norm()).item()
    if not apart < (ALIKE if model.dtype == torch.float32 else ALIKE_IN_BFLOAT16):
        return f"its logits come out {apart:.1g} of their size apart"
    window = sliding_window(model)
    if window not in (None, *windows):
        return f"its sliding window of {window} tokens does not reach the attention"
    return ""


def _plain_logits(model: Any, row: Sequence[int]) -> Tensor:
    tokens = torch.tensor([row], device=model.device)
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0].float()
    return logits


def _forced_logits(
    model: Any, groups: Sequence[Group], answers: Sequence[Sequence[int]]
) -> tuple[Tensor, set[int | None]]:
    """The logits (R, 4, V) behind the prompts and each of three tokens, and the windows seen."""
    block = Block(groups, model.device)
    found = [prefill(model, block)[block.homes]]
    windows: set[int | None] = set()
    for step in range(3):
        block.tokens = torch.tensor([row[step] for row in answers], device=model.device)
        layout = Decode([block])
        found.append(_logits(model, block.tokens[None], block.positions()[None], None, layout))
        windows |= layout.windows
        block.step += 1
    return torch.stack(found, dim=1), windows


# --- rows apart ----------------------------------------------------------------------------------


def _draw_apart(
    model: Any, prompts: Sequence[list[int]], record: Record, rows: int, pad: int
) -> Iterator[int]:
    """The same for a model of any kind, with transformers' cache: rows of similar length side by
    side, padded on the left; yields how many are done."""
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for part in chunks(len(prompts), rows):
        chosen = longest_first[part]
        _draw_rows(model, [prompts[i] for i in chosen], record, chosen, pad)
        yield min(part.stop, len(prompts))


def _draw_rows(
    model: Any, prompts: Sequence[list[int]], record: Record, answers: Sequence[int], pad: int
) -> None:
    tokens, mask = left_pad(prompts, pad, model.device)  # (B, Q) both
    rows = torch.tensor(answers, device=model.device)  # (B,) answers still in the batch
    cache, positions = DynamicCache(config=model.config), position_ids(mask)
    going = torch.ones_like(rows, dtype=torch.bool)
    for step in range(record.drawing.max_new_tokens):
        logits = _cached_logits(model, tokens, mask, positions, cache)  # (B, V)
        drawn = logits.new_zeros(len(rows), dtype=torch.long)
        steps = torch.full_like(rows[going], step)
        drawn[going], still = record.draw(logits[going], rows[going], steps)
        going[going.clone()] = still
        if not bool(going.any()):
            return
        tokens, positions = drawn[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        if int((~going).sum()) >= STOPPED_SHARE * len(rows):
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            tokens, positions, mask, rows, going = (
                x[kept] for x in (tokens, positions, mask, rows, going)
            )


def _cached_logits(
    model: Any, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any
) -> Tensor:
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **accepted(model, position_ids=positions, logits_to_keep=1),
    )
    logits: Tensor = output.logits[:, -1].float()
    return logits
