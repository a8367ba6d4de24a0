"""The state that training resumes from: weights and optimiser as safetensors, position as JSON.

Weights that are not trained are left out. Of several ranks each writes and reads its own shards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from reward import ranks, shards
from reward.model import refuse_not_finite

WEIGHTS, MOMENTS, POSITION = "weights.safetensors", "optimiser.safetensors", "position.json"


def save_state(
    folder: Path, model: Any, optimiser: torch.optim.Optimizer, position: dict[str, Any]
) -> None:
    """Write all that the next step depends on. ``position`` is the caller's own, JSON.

    Raises ValueError for weights that are not finite: nothing could be resumed from them.
    """
    named = _trained(model)
    refuse_not_finite({name: shards.local(parameter) for name, parameter in named.items()})
    moments = {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    shards.save(named, folder / WEIGHTS)
    shards.save(moments, folder / MOMENTS)
    if ranks.is_first():
        (folder / POSITION).write_text(json.dumps(position), encoding="utf-8")


def _trained(model: Any) -> dict[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_state(folder: Path, model: Any, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a saved state into model and optimiser, bit for bit; returns the position.

    Raises ValueError, before anything is changed, naming a file that is missing or cannot be read,
    or a tensor that does not belong to this model.
    """
    weights, moments = shards.load(folder / WEIGHTS), shards.load(folder / MOMENTS)
    named = _trained(model)
    for name in weights.keys() ^ named.keys():
        raise ValueError(f"{folder / WEIGHTS} is of another model: {name} is in one of them only")
    for name, parameter in named.items():
        shape = shards.local(parameter).shape
        if weights[name].shape != shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(shape)}"
            raise ValueError(f"{folder / WEIGHTS}: {name} has the shape {shapes}")
    position = _read(folder / POSITION)
    with torch.no_grad():
        for name, parameter in named.items():
            shards.local(parameter).copy_(weights[name])
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        on = "cpu" if kind == "step" else named[name].device  # where AdamW itself keeps it
        optimiser.state[named[name]][kind] = shards.like(named[name], value.to(on))
    return position


def _read(file: Path) -> dict[str, Any]:
    try:
        position: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the checkpoint's {file} cannot be read: {error}") from None
    return position
