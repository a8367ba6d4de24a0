"""Low-rank adapters in the trunk's linear layers (LoRA: Hu et al. 2021), the head trained in full.

peft's layers are put into the model in place, nothing is wrapped around it, so rows share their
prefixes as before. With ``quantise`` the layers beneath are kept in NF4 (QLoRA: Dettmers et al.
2023). A run leaves the merged model, and the adapter with the head beside it as peft reads it.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from reward import ranks
from reward.config import TrainConfig

ADAPTER = "default"  # peft's name for the only one
HEAD = "score"


def refuse_impossible(config: TrainConfig) -> None:
    """Raises ValueError for adapter settings that cannot be here, before a model is read."""
    if config.quantise == "4bit" and find_spec("bitsandbytes") is None:
        raise ValueError("quantise=4bit needs the package bitsandbytes, which is not installed")


def add_adapter(model: Any, config: TrainConfig, device: torch.device) -> None:
    """Freeze the trunk and put adapters into it, drawn under the seed; nothing for full training.

    Raises ValueError for targets that are no layers of the trunk.
    """
    if not config.lora_rank:
        return
    if config.quantise == "4bit":
        if ranks.count() > 1:
            raise ValueError("quantise=4bit keeps the trunk whole: allowed is one process")
        _quantise(model, config, device)
    torch.manual_seed(config.seed)
    try:
        inject_adapter_in_model(_lora(config), model)
    except ValueError:
        raise ValueError(
            f"lora_targets is {config.lora_targets!r}, allowed are all-linear or names that linear"
            " layers of the trunk end in"
        ) from None
    model.score.requires_grad_(True)
    model.eval()


def _lora(config: TrainConfig) -> LoraConfig:
    targets: str | list[str] = config.lora_targets
    if targets != "all-linear":
        targets = config.lora_targets.split(",")
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        exclude_modules=[HEAD],
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=str(config.model),
    )


def _quantise(model: Any, config: TrainConfig, device: torch.device) -> None:
    """Every linear layer of the trunk in NF4, its constants quantised again, on ``device``."""
    import bitsandbytes  # optional, and only there when it is asked for

    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    for parent in list(model.base_model.modules()):
        for name, layer in parent.named_children():
            if type(layer) is torch.nn.Linear:
                low = bitsandbytes.nn.Linear4bit(
                    layer.in_features, layer.out_features, layer.bias is not None, dtype,
                    quant_type="nf4",
                )  # fmt: skip
                low.weight = bitsandbytes.nn.Params4bit(
                    layer.weight.data, requires_grad=False, quant_type="nf4", module=low
                )
                low.bias = layer.bias
                low.support_avx512bf16_for_cpu = False  # would repack, and round, what is trained
                setattr(parent, name, low.to(device))
    model.is_loaded_in_4bit = True  # what peft asks


def draw_dropout(model: Any, config: TrainConfig, step: int) -> None:
    """Drop for this step, drawn from seed, step and rank alone, so it resumes; off without
    ``lora_dropout``."""
    if config.lora_dropout:
        torch.manual_seed(random.Random(f"{config.seed}/{step}/{ranks.rank()}").getrandbits(62))
        _set_dropout(model, True)


def stop_dropout(model: Any) -> None:
    """Score with whole adapters."""
    _set_dropout(model, False)


def _set_dropout(model: Any, on: bool) -> None:
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train(on)


def merged_state(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's whole ``state`` with the adapters added to the weights, under their old names.

    W + alpha / rank · B A (Hu et al. 2021, equation 3); NF4 weights are those that were trained on.
    ``state`` is used up, so that only one matrix at a time is held twice.
    """
    adapted = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, layer in adapted.items():
        a, b = (state.pop(f"{name}.lora_{x}.{ADAPTER}.weight") for x in "AB")  # (r, in), (out, r)
        added = layer.scaling[ADAPTER] * (b @ a)
        weight = _dequantised(layer.base_layer, state.pop(f"{name}.base_layer.weight"))
        if getattr(layer, "fan_in_fan_out", False):
            added = added.T
        state[f"{name}.weight"] = weight + added
    packed = tuple(f"{name}.base_layer.weight." for name in adapted)  # the constants of NF4
    return {
        n.replace(".base_layer.", "."): t
        for n, t in state.items()
        if not (packed and n.startswith(packed))
    }


def _dequantised(layer: Any, weight: Tensor) -> Tensor:
    if getattr(layer.weight, "quant_state", None) is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    return found


def save_adapter(state: dict[str, Tensor], config: TrainConfig, folder: Path) -> None:
    """Adapters and head, as ``peft.PeftModel.from_pretrained`` reads them over the chat model."""
    kept = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": tensor.contiguous().cpu()
        for name, tensor in state.items()
        if ".lora_" in name or name.startswith(f"{HEAD}.")
    }
    save_file(kept, folder / "adapter_model.safetensors", {"format": "pt"})
    described = _lora(config)
    described.modules_to_save = [HEAD]
    described.inference_mode = True
    described.save_pretrained(str(folder))
