"""Answers to one prompt, drawn side by side with its keys and values; and which models can do that.

R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from reward.trunk import STUMBLES, alike, sliding_window
from rlhf_loop.drawing.blocks import Block, Group, plan_blocks
from rlhf_loop.drawing.passes import NAME, Decode, attending, decode, packed_logits, prefill
from rlhf_loop.drawing.record import Record


def draw_shared(
    model: Any, prompts: Sequence[list[int]], record: Record, rows: int, pad: int
) -> Iterator[int]:
    """Draw all answers; yields how many are done whenever some are."""
    waiting, blocks = plan_blocks(prompts, rows), list[Block]()
    reported = 0
    with attending(model):
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
            with attending(model):
                if model.config._attn_implementation != NAME:
                    return "its attention cannot be exchanged"
                found, windows = _forced_logits(model, groups, answers)
        except (torch.OutOfMemoryError, MemoryError):
            raise  # says nothing of what the model can do
        except STUMBLES as error:
            return f"{type(error).__name__}: {error}"
    wanted = torch.stack(expected)  # (3, 4, V)
    apart = ((found - wanted).norm() / wanted.norm()).item()
    if not apart < alike(model):
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
        layout, places = Decode([block]), block.positions()[None]
        found.append(packed_logits(model, block.tokens[None], places, None, layout))
        windows |= layout.windows
        block.step += 1
    return torch.stack(found, dim=1), windows
