"""The state that training resumes from: weights and optimiser as safetensors, position as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, MOMENTS, POSITION = "weights.safetensors", "optimiser.safetensors", "position.json"


def save_state(
    folder: Path, model: Any, optimiser: torch.optim.Optimizer, position: dict[str, Any]
) -> None:
    """Write all that the next step depends on. ``position`` is the caller's own, JSON.

    Raises ValueError for weights that are not finite: nothing could be resumed from them.
    """
    refuse_not_finite(model)
    named = dict(model.named_parameters())
    moments = {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    _save(named, folder / WEIGHTS)
    _save(moments, folder / MOMENTS)
    (folder / POSITION).write_text(json.dumps(position), encoding="utf-8")


def refuse_not_finite(model: Any) -> None:
    """Raises ValueError naming a weight that is infinite or not a number."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"the weights have come apart: {name} is not finite")


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written: {error}") from None


def load_state(folder: Path, model: Any, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a saved state into model and optimiser, bit for bit; returns the position.

    Raises ValueError, before anything is changed, naming a file that is missing or cannot be read,
    or a tensor that does not belong to this model.
    """
    weights, moments = _load(folder / WEIGHTS), _load(folder / MOMENTS)
    named = dict(model.named_parameters())
    for name in weights.keys() ^ named.keys():
        raise ValueError(f"{folder / WEIGHTS} is of another model: {name} is in one of them only")
    for name, parameter in named.items():
        if weights[name].shape != parameter.shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
            raise ValueError(f"{folder / WEIGHTS}: {name} has the shape {shapes}")
    position = _read(folder / POSITION)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        on = "cpu" if kind == "step" else named[name].device  # where AdamW itself keeps it
        optimiser.state[named[name]][kind] = value.to(on)
    return position


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the checkpoint's {file} cannot be read: {error}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        position: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the checkpoint's {file} cannot be read: {error}") from None
    return position
