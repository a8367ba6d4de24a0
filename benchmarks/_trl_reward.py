"""The TRL side of ``reward_against_trl.py``: one run of TRL's RewardTrainer.

Run by the interpreter of an environment that has TRL, never by Tandem's. Takes a JSON file with the
settings, writes the model to ``out`` and the figures to ``result``. Nothing of Tandem is imported.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from trl import RewardConfig, RewardTrainer


class RecordingTrainer(RewardTrainer):
    """RewardTrainer that keeps every step's loss unrounded; the training itself is untouched."""

    losses: list[float]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss, noted down. One call is one step: nothing is accumulated here."""
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def load_columns(file: Path) -> datasets.Dataset:
    """The three columns of TRL's conversational preference format, in file order."""
    with file.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    columns = ("prompt", "chosen", "rejected")
    return datasets.Dataset.from_list([{c: record[c] for c in columns} for record in records])


def trainer_config(settings: dict[str, Any]) -> RewardConfig:
    """Tandem's optimiser in TRL's words: float32, on the CPU, file order, no accumulation."""
    return RewardConfig(
        output_dir=settings["out"],
        per_device_train_batch_size=settings["pairs_per_step"],
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        max_length=settings["max_tokens"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        optim="adamw_torch",
        adam_beta1=settings["adam_beta1"],
        adam_beta2=settings["adam_beta2"],
        adam_epsilon=settings["adam_epsilon"],
        weight_decay=settings["weight_decay"],
        max_grad_norm=settings["max_grad_norm"],
        seed=settings["seed"],
        disable_dropout=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
    )


def speed_config(settings: dict[str, Any]) -> RewardConfig:
    """RewardTrainer as it comes, tuned, or sorted, and nothing set that does not have to be."""
    kinds: dict[str, dict[str, Any]] = {
        "as it comes": {},
        "tuned": {
            "train_sampling_strategy": "group_by_length",
            "length_column_name": "length",
            "remove_unused_columns": False,
            "gradient_checkpointing": False,
        },
        "sorted": {"train_sampling_strategy": "sequential", "gradient_checkpointing": False},
    }
    return RewardConfig(
        output_dir=settings["out"],
        per_device_train_batch_size=settings["pairs_per_step"],
        num_train_epochs=1,
        max_length=settings["max_tokens"],
        learning_rate=settings["learning_rate"],
        seed=settings["seed"],
        use_cpu=not torch.cuda.is_available(),
        bf16=settings["dtype"] == "bfloat16",
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **kinds[settings["kind"]],
    )


def with_lengths(trainer: RewardTrainer) -> None:
    """The column that grouping by length reads, of the tokens that TRL has made."""
    trainer.train_dataset = trainer.train_dataset.map(
        lambda row: {"length": max(len(row["chosen_ids"]), len(row["rejected_ids"]))}
    )


def main(settings_file: Path) -> None:
    """Train once and write what it gave."""
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    started = time.monotonic()
    pairs = load_columns(Path(settings["pairs"]))
    kind = settings.get("kind", "in step")
    arguments = trainer_config(settings) if kind == "in step" else speed_config(settings)
    trainer = RecordingTrainer(model=settings["model"], args=arguments, train_dataset=pairs)
    trainer.losses = []
    if kind in ("tuned", "sorted"):
        with_lengths(trainer)
    if kind == "sorted":
        trainer.train_dataset = trainer.train_dataset.sort("length", reverse=True)
    training_started = time.monotonic()
    trainer.train()
    training_seconds = time.monotonic() - training_started
    trainer.save_model(settings["out"])
    result = {
        "losses": trainer.losses,
        "pairs": len(trainer.train_dataset),
        "over_long": len(pairs) - len(trainer.train_dataset),
        "seconds": time.monotonic() - started,
        "training_seconds": training_seconds,
        "decayed": sorted(trainer.get_decay_parameter_names(trainer.model)),
        "versions": {m.__name__: m.__version__ for m in (trl, transformers, torch)},
    }
    Path(settings["result"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
