"""The policy that learns, at an address: its weights as they are, in a folder that is handed over.

A folder's name stands for its weights, here and at many a server, so none is used twice.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from reward import ranks
from reward.run_folder import replace_folder
from rlhf_loop.config import PPOConfig
from rlhf_loop.policy import save_chat_model
from rlhf_loop.serving import Address, serve

FOLDER = "served"  # within the run folder


def serve_weights(config: PPOConfig, model: Any, tokenizer: Any, iteration: int) -> Address:
    """The address, which serves ``model`` as it is after so many iterations; every rank asks.

    The folder stays until the next one is written; of another process's none is kept. Raises
    SamplerRefused where the address cannot be made to serve it, or serves other weights, or does
    not answer by token ids.
    """
    name = ranks.told(f"{iteration}-{uuid4().hex[:8]}")
    folder = config.out.absolute() / FOLDER / name
    if ranks.is_first():
        remove_served(config.out)
        replace_folder(folder, partial(save_chat_model, model, tokenizer))
    return serve(config, model, tokenizer, str(folder), needs_tokens=True)


def remove_served(out: Path) -> None:
    """Remove what was written of the policy for an address, if anything was."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
