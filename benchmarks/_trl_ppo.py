"""The TRL side of ``ppo_step.py``: a few steps of TRL 1.12's experimental PPOTrainer.

Run by the interpreter of an environment that has TRL, never by Tandem's. Takes a JSON file with the
settings and writes the seconds of each step to ``result``, and on a GPU the memory that torch has
allocated at most. Nothing of Tandem is imported.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """When each step ended, on the wall and in processor time; a GPU's part of it too."""

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu, self.ends = on_gpu, list[tuple[float, float]]()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.on_step_end()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()
        self.ends.append((time.monotonic(), time.process_time()))


def main(settings_file: Path) -> None:
    """Train for a few steps and write what each took."""
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"], padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(settings["policy"]) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(settings["reward"], num_labels=1)
        for _ in range(2)
    )
    on_gpu = settings["device"] != "cpu"
    batch, clock = settings["batch"], Clock(on_gpu)
    arguments = PPOConfig(
        output_dir=settings["out"], use_cpu=not on_gpu, bf16=False, learning_rate=settings["rate"],
        lr_scheduler_type="constant", per_device_train_batch_size=batch,
        gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=1,
        total_episodes=settings["steps"] * batch, response_length=settings["tokens"],
        num_sample_generations=0, local_rollout_forward_batch_size=batch, temperature=1.0,
        gradient_checkpointing=False, report_to="none", save_strategy="no", kl_coef=0.01,
        adam_beta2=0.95, adam_epsilon=1e-5, weight_decay=0.1, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"input_ids": row} for row in settings["prompts"]])
    trainer = PPOTrainer(
        args=arguments, processing_class=tokenizer, model=policy, ref_model=reference,
        reward_model=reward, value_model=value, train_dataset=rows, eval_dataset=rows,
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    peak = {"memory_mib": torch.cuda.max_memory_allocated() / 2**20} if on_gpu else {}
    steps = [
        {"seconds": later[0] - before[0], "cpu_seconds": later[1] - before[1], **peak}
        for before, later in zip(clock.ends, clock.ends[1:], strict=False)
    ]
    Path(settings["result"]).write_text(json.dumps(steps), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
