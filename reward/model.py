"""A language model's trunk with a scalar head: one raw score for each row of tokens.

B rows, T tokens, H hidden. The classes are transformers' own for sequence classification, so that
a saved reward model loads there unchanged; what they leave to the caller stands here: the score is
read at each row's true last token, and head and score are float32 whatever the trunk computes in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from reward.data import last_token

PAD_TOKEN = "<|pad|>"


def pick_device(device: str) -> torch.device:
    """The device that a ``device`` setting names; "auto" is a GPU where there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def start_from_chat_model(folder: Path, seed: int) -> tuple[Any, Any]:
    """A reward model whose trunk is the chat model's, with a fresh head (section 3.2.2).

    The head has no bias and is drawn from N(0, 1/(H+1)) under ``seed`` (Stiennon et al. 2020).
    Returns (model, tokenizer). Raises ValueError for a folder without a model, an architecture
    without a sequence classification class, or a tokenizer without a chat template.
    """
    tokenizer = load_tokenizer(folder)
    model = _load(folder)
    with torch.no_grad():
        head = model.score.weight  # (1, H)
        drawn = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
        head.copy_(drawn / (head.shape[1] + 1) ** 0.5)
    _separate_pad_from_end(model, tokenizer)
    return model.float(), tokenizer


def load_reward_model(folder: Path) -> tuple[Any, Any]:
    """A saved reward model and its tokenizer. Raises ValueError for a folder that holds none."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    names = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        raise ValueError(f"{folder} holds {', '.join(names) or 'no model'}, not a reward model")
    return _load(folder).float(), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ValueError when it has no chat template that ends answers."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no model: it has no config.json")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {folder} has no chat template, and one is needed")
    last_token(tokenizer)
    return tokenizer


def _load(folder: Path) -> Any:
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, local_files_only=True, dtype=torch.float32
        )
    except ValueError as error:
        raise ValueError(f"{folder} cannot start a reward model: {error}") from None
    model.config.use_cache = False
    return model.eval()  # for good: without dropout a row's score is one number


def _separate_pad_from_end(model: Any, tokenizer: Any) -> None:
    """Give the model a pad id that never ends a row.

    transformers pools at the rightmost token that is not the pad id, so a pad id that is also an
    end token would move every score one token to the left.
    """
    ends = {tokenizer.eos_token_id, last_token(tokenizer)}
    if tokenizer.pad_token_id in {None, *ends}:
        if tokenizer.unk_token_id not in {None, *ends}:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if len(tokenizer) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    # An embedding's padding_idx gets no gradient: it must not stay on what was the pad id before.
    model.get_input_embeddings().padding_idx = tokenizer.pad_token_id


def context_tokens(model: Any) -> int | None:
    """The longest row that the trunk's positions allow, where its configuration names it."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


def score_rows(model: Any, rows: Sequence[Sequence[int]], dtype: str = "float32") -> Tensor:
    """Raw scores (B,) in float32 of B token rows, each read at the row's own last token.

    Equal to scoring each row alone: padding stands right of a row and is masked. ``dtype``
    "bfloat16" lets the trunk compute in it; the head never does.
    """
    device = model.score.weight.device
    lengths = torch.tensor([len(row) for row in rows], device=device)  # (B,)
    ids = pad_sequence(
        [torch.tensor(row) for row in rows],
        batch_first=True,
        padding_value=model.config.pad_token_id,
    ).to(device)  # (B, T)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]  # (B, T)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        trunk = model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    hidden = trunk.last_hidden_state  # (B, T, H)
    last = hidden[torch.arange(len(rows), device=device), lengths - 1].float()  # (B, H)
    with torch.autocast(device.type, enabled=False):
        head: Tensor = model.score.weight  # (1, H)
        scores: Tensor = (last @ head.float().T).squeeze(-1)  # (B,)
    return scores


def save_reward_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the Hugging Face layout: safetensors, config, tokenizer."""
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer that older versions of transformers read as well."""
    tokenizer.save_pretrained(folder)
    make_tokenizer_portable(folder)


def make_tokenizer_portable(folder: Path) -> None:
    """Name the tokenizer's class as transformers 4 knows it too."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["model_input_names"] = ["input_ids", "attention_mask"]
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
