"""What test_sharded_start does on each rank: ``-m tests.reward.sharded_starts FILE.json``.

For each start it leaves what the ranks hold together, each rank's buffers, and how much memory it
took at the most: when the model was read and divided, and when it was put together and saved.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from reward import adapter, fsdp, ranks
from reward import train as training
from reward.config import TrainConfig
from reward.run_folder import RunFolder
from reward.settings import from_mapping
from tests.tiny_models import tiny_chat_model


def resident(figure: str) -> int:
    """VmRSS, or VmHWM: the most since ``forget_most``; bytes (proc(5))."""
    found = re.search(rf"{figure}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, figure
    return int(found[1]) * 1024


def forget_most() -> int:
    """How much is resident now, with everything given back that is free."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def start(config: TrainConfig, device: torch.device) -> dict[str, int]:
    """A start as ``reward.train`` makes it, and its end without a step between."""
    config.out.mkdir(exist_ok=True)
    before = forget_most()
    model, tokenizer = training._start(config)
    adapter.add_adapter(model, config, device)
    fsdp.place(model, device, config.dtype)
    divided = resident("VmHWM") - before
    kept = forget_most() - before
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    save_file(buffers, config.out / f"buffers-{ranks.rank()}.safetensors")
    state = fsdp.whole_state(model)
    if ranks.is_first():
        save_file(state, config.out / "state.safetensors")
    del state
    before = forget_most()
    training._leave_model(model, tokenizer, RunFolder(config.out), config)
    ranks.wait()
    return {"divided": divided, "kept": kept, "saved": resident("VmHWM") - before}


def warm_up(folder: Path, device: torch.device) -> None:
    """Have every library loaded: a start and an end of a tiny model, which nobody measures."""
    ranks.first_alone(lambda: str(tiny_chat_model(folder / "chat")))
    tiny = {"pairs": "-", "model": str(folder / "chat"), "out": str(folder / "tiny")}
    start(from_mapping(TrainConfig, {**tiny, "criterion": "safety", "lora_rank": 2}), device)


def main() -> None:
    file = Path(sys.argv[1])
    starts: dict[str, dict[str, Any]] = json.loads(file.read_text())
    with ranks.joined("cpu") as device:
        warm_up(file.parent, device)
        taken = {n: start(from_mapping(TrainConfig, s), device) for n, s in starts.items()}
        file.with_name(f"taken-{ranks.rank()}.json").write_text(json.dumps(taken))


if __name__ == "__main__":
    main()
