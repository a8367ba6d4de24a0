"""Tensors to safetensors files and back, when each rank has some rows of each.

One rank writes FILE.safetensors; of N, each writes FILE-1-of-N.safetensors and so on: its rows and,
in the header, which they are. Any number of ranks reads them back. torch's own distributed
checkpoints do the same with an index that can run code when it is read. A rank has the rows that
``fully_shard`` gives it: ceil(rows / N) each, the last ranks fewer or none; a number without rows
is everyone's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from reward import ranks

ROWS = "rows"  # in a file's header: {name: [first row, rows of the whole tensor]}


def local(tensor: Tensor) -> Tensor:
    """This rank's rows of a tensor, in its own memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(sharded: Tensor, rows: Tensor) -> Tensor:
    """This rank's ``rows`` as a tensor that is divided as ``sharded`` is."""
    if not isinstance(sharded, DTensor) or not rows.ndim:
        return rows
    return DTensor.from_local(
        rows, sharded.device_mesh, (Shard(0),), run_check=False,
        shape=sharded.shape, stride=sharded.stride(),
    )  # fmt: skip


def own_shard(total: int) -> tuple[int, int]:
    """The first of this rank's rows, and the first that is no longer its own."""
    each = -(-total // ranks.count())
    return min(ranks.rank() * each, total), min((ranks.rank() + 1) * each, total)


def save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write this rank's rows of the tensors. Every rank must call it; ``file`` is FILE.safetensors
    whatever their number. Raises OSError naming the file where it cannot be written."""
    rows = {
        name: [own_shard(t.shape[0])[0], t.shape[0]]
        for name, t in tensors.items()
        if isinstance(t, DTensor)
    }
    kept = {name: local(t).detach().cpu().contiguous() for name, t in tensors.items()}
    if not ranks.is_first():
        kept = {name: kept[name] for name in rows}
    if ranks.count() > 1:
        file = file.with_stem(f"{file.stem}-{ranks.rank() + 1}-of-{ranks.count()}")
    try:
        save_file(kept, file, {ROWS: json.dumps(rows)} if rows else None)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from None


def load(file: Path) -> dict[str, Tensor]:
    """This rank's rows of each tensor, whatever number of ranks wrote them.

    Raises ValueError naming a file that is missing or cannot be read, or a tensor with rows amiss.
    """
    pieces: dict[str, list[_Piece]] = {}
    for part in _files(file):
        for name, piece in _pieces(part).items():
            pieces.setdefault(name, []).append(piece)
    return {name: _join(file, name, of) for name, of in pieces.items()}


class _Piece(NamedTuple):
    """Where some of a tensor's rows stand, and which of those are this rank's."""

    start: int
    total: int
    rows: Tensor


def _files(file: Path) -> list[Path]:
    """The file, or all the parts of it."""
    found = sorted(file.parent.glob(f"{file.stem}-*-of-*{file.suffix}"))
    if not found:
        return [file]
    of = re.fullmatch(r".*-of-(\d+)", found[0].stem)
    assert of is not None, found[0]
    return [
        file.with_stem(f"{file.stem}-{number}-of-{of[1]}") for number in range(1, int(of[1]) + 1)
    ]


def _pieces(file: Path) -> dict[str, _Piece]:
    """What of this rank's rows stands in a file."""
    try:
        with safe_open(file, framework="pt") as opened:
            divided = json.loads((opened.metadata() or {}).get(ROWS, "{}"))
            return {name: _piece(opened, name, divided.get(name)) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the checkpoint's {file} cannot be read: {error}") from None


def _piece(opened: Any, name: str, divided: list[int] | None) -> _Piece:
    shape = opened.get_slice(name).get_shape()
    if not shape:
        return _Piece(0, 0, opened.get_tensor(name))
    start, total = divided or (0, shape[0])
    own_start, own_end = own_shard(total)
    here = slice(max(own_start - start, 0), max(min(own_end - start, shape[0]), 0))
    return _Piece(max(start, own_start), total, opened.get_slice(name)[here])


def _join(file: Path, name: str, pieces: list[_Piece]) -> Tensor:
    if not pieces[0].rows.ndim:
        return pieces[0].rows
    held = sorted((piece for piece in pieces if len(piece.rows)), key=lambda piece: piece.start)
    wanted, end = own_shard(pieces[0].total)
    for piece in held:
        if piece.start != wanted:
            break
        wanted += len(piece.rows)
    if wanted != end:
        raise ValueError(f"the checkpoint's {file} lacks row {wanted} of {name}")
    return torch.cat([piece.rows for piece in held]) if held else pieces[0].rows
