"""A language model's trunk with a scalar head: one raw score for each row of tokens.

B rows, T tokens, H hidden. The classes are transformers' own for sequence classification, so that
a saved reward model loads there unchanged; what they leave to the caller stands here: the score is
read at each row's true last token, and head and score are float32 whatever the trunk computes in.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from reward.data import end_token, row_tokens
from reward.preferences import Message
from reward.trunk import Tails, share_prefixes, states_at, take_trees

PAD_TOKEN = "<|pad|>"


def pick_device(device: str) -> torch.device:
    """The device that a ``device`` setting names; "auto" is a GPU where there is one.

    Raises ValueError for one that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device is {device!r}, which cannot be used here: {why}") from None


def start_from_chat_model(folder: Path, seed: int) -> tuple[Any, Any]:
    """A reward model whose trunk is the chat model's, with a fresh head (section 3.2.2).

    The head has no bias and is drawn from N(0, 1/(H+1)) under ``seed`` (Stiennon et al. 2020).
    Returns (model, tokenizer). Raises ValueError for a folder without a model, an architecture
    without a sequence classification class, or a tokenizer without a chat template or with words
    that the model has no embedding for.
    """
    tokenizer = load_tokenizer(folder)
    model = _load(folder, fresh={"score.weight"})
    _refuse_unknown_tokens(model, tokenizer, folder)
    with torch.no_grad():
        head = model.score.weight  # (1, H)
        drawn = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
        head.copy_(drawn / (head.shape[1] + 1) ** 0.5)
    _separate_pad_from_end(model, tokenizer)
    return _ready(model, folder), tokenizer


def outline_of_chat_model(folder: Path, shares_prefixes: bool) -> tuple[Any, Any]:
    """What ``start_from_chat_model`` gives, without values (on the meta device): for a rank that
    gets its part of them from the first (``reward.fsdp.place``). ``shares_prefixes``: whether the
    first found that the model can."""
    tokenizer = load_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder, num_labels=1, local_files_only=True)
    with torch.device("meta"):
        built: Any = AutoModelForSequenceClassification
        model = built.from_config(config, dtype=torch.float32)
    model.config.use_cache = False
    _separate_pad_from_end(model.eval(), tokenizer)
    if shares_prefixes:
        take_trees(model)
    return model, tokenizer


def load_reward_model(folder: Path) -> tuple[Any, Any]:
    """A saved reward model and its tokenizer. Raises ValueError for a folder that holds none."""
    refuse_no_model(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    names = config.architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        raise ValueError(f"{folder} holds {', '.join(names) or 'no model'}, not a reward model")
    return _ready(_load(folder), folder), load_tokenizer(folder)


def _ready(model: Any, folder: Path) -> Any:
    why = share_prefixes(model.float())
    if why:
        print(f"{folder}: rows do not share their prefixes, {why}.", flush=True)
    return model


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ValueError when it has no chat template that ends answers."""
    refuse_no_model(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no tokenizer that can be read: {_line(error)}") from None
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer of {folder} has no chat template, and one is needed")
    end_token(tokenizer)
    return tokenizer


def refuse_no_model(folder: Path) -> None:
    """Raises ValueError for a folder without a model, or whose model stands in a folder below."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no model: it has no config.json")
    if (folder / "model" / "config.json").is_file():
        raise ValueError(f"{folder} is a run's folder, allowed is its model: {folder / 'model'}")


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def _load(folder: Path, fresh: Set[str] = frozenset()) -> Any:
    """The folder's model. Raises ValueError for one without weights that are not ``fresh``: they
    would be random."""
    try:
        with _quiet():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=1, local_files_only=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} cannot start a reward model: {_line(error)}") from None
    missing = sorted(set(found["missing_keys"]) - fresh)
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} weights of its model, one is {missing[0]}")
    model.config.use_cache = False
    return model.eval()  # for good: without dropout a row's score is one number


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of a head that is new and one that is left: both are meant."""
    reporter = logging.getLogger("transformers.modeling_utils")
    before = reporter.level
    reporter.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reporter.setLevel(before)


def _refuse_unknown_tokens(model: Any, tokenizer: Any, folder: Path) -> None:
    """Raises ValueError for words beyond the embedding, which would get random ones.

    Special tokens that the chat template never writes, such as a pad token, do no harm there.
    """
    size = model.get_input_embeddings().weight.shape[0]
    written = row_tokens(tokenizer, [Message("user", "?"), Message("assistant", "yes")])
    harmless = set(tokenizer.all_special_ids) - set(written)
    found = tokenizer.get_vocab().items()
    unknown = {token: i for token, i in found if i >= size and i not in harmless}
    if unknown:
        first = min(unknown, key=unknown.__getitem__)
        raise ValueError(
            f"the tokenizer of {folder} has tokens that its model does not know, one is {first!r} "
            f"with the id {unknown[first]}; allowed are ids below {size}"
        )


def _separate_pad_from_end(model: Any, tokenizer: Any) -> None:
    """Give the model a pad id that never ends a row.

    transformers pools at the rightmost token that is not the pad id, so a pad id that is also an
    end token would move every score one token to the left.
    """
    ends = {tokenizer.eos_token_id, end_token(tokenizer)}
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


def recompute_activations(model: Any) -> None:
    """Keep only what goes into each layer and compute the rest again on the way back: less memory
    for a third more work. Raises ValueError for an architecture that cannot."""
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"{type(model).__name__} cannot compute its activations again")
    model.activation_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # it asks for that; what is in it, dropout too, stays as it is


@contextmanager
def kept_activations(model: Any) -> Iterator[None]:
    """Within, nothing is computed again: a model that draws answers keeps keys and values, which
    layers that compute them again would throw away."""
    layers = [
        m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and m.training
    ]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def context_tokens(model: Any) -> int | None:
    """The longest row that the trunk's positions allow, where its configuration names it."""
    return _context(model.config)


def row_limit(max_tokens: int, *contexts: int | None) -> int:
    """The longest row that ``max_tokens`` and the contexts of these models allow; None is a model
    whose configuration names none."""
    return min([max_tokens, *(context for context in contexts if context)])


def stored_context(folder: Path) -> int | None:
    """The same of a saved model of any kind, without its weights. Raises ValueError for a folder
    that holds none."""
    refuse_no_model(folder)
    try:
        return _context(AutoConfig.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError) as error:
        why = _line(error)
        raise ValueError(f"{folder} has no configuration that can be read: {why}") from None


def _context(config: Any) -> int | None:
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def score_rows(model: Any, rows: Sequence[Sequence[int]], dtype: str = "float32") -> Tensor:
    """Raw scores (B,) in float32 of B token rows, each read at the row's own last token.

    Equal to scoring each row alone. Where the model can, prefixes that rows share go through it
    once, and nothing is padded. ``dtype`` "bfloat16" lets the trunk compute in it; the head never
    does.
    """
    ends = Tails(rows, [1] * len(rows), model.score.weight.device)
    return score_states(model, states_at(model, ends, dtype))


def score_states(model: Any, last: Tensor) -> Tensor:
    """Scores (B,) of hidden states (B, H) after the trunk."""
    scores: Tensor = model.score(last).squeeze(-1)  # (B,)
    return scores


def save_reward_model(
    model: Any, tokenizer: Any, folder: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the Hugging Face layout: safetensors, config, tokenizer; ``state`` in place of the
    model's own weights where they are divided or adapted."""
    save_weights(model, folder, state)
    save_tokenizer(tokenizer, folder)


def save_weights(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write weights, the model's own or those of ``state``, and configuration.

    Raises OSError naming the folder where it cannot be written, ValueError for weights that are not
    finite: no score can be had from them.
    """
    refuse_not_finite(model.state_dict() if state is None else state)
    try:
        model.save_pretrained(folder, state_dict=state)
    except SafetensorError as error:
        raise OSError(f"{folder} cannot be written: {error}") from None


def refuse_not_finite(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming a weight that is infinite or not a number."""
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"the weights have come apart: {name} is not finite")


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
