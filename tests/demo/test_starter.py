"""The shipped starter checkpoints: what they are, and that they leave room to improve."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.corpus import demonstrations, human_texts, pretraining_conversations
from demo.figures import sample
from demo.gold import mean_scores, score
from demo.starter import IGNORED, VARIANTS, encode
from demo.world import prompts

CHECKPOINTS = Path(__file__).parents[2] / "demo" / "checkpoints"
FOLDERS = [CHECKPOINTS / variant.name for variant in VARIANTS]
HISTORY = [
    {"role": "system", "content": "You are a help desk assistant."},
    {"role": "user", "content": "How heavy is the Brindle fan?"},
    {"role": "assistant", "content": "It weighs 2.5 kg."},
]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def starter(request):
    folder = request.param
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True), folder


def test_it_is_a_small_llama(starter) -> None:
    model, tokenizer, _ = starter
    config = model.config
    assert config.model_type == "llama"
    assert 500_000 <= model.num_parameters() <= 3_000_000
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.max_position_embeddings >= 2048
    assert config.tie_word_embeddings
    assert config.hidden_act == "silu"
    assert config.vocab_size == len(tokenizer)
    assert model.dtype == torch.float32


def test_the_folder_is_small_and_has_no_pickles(starter) -> None:
    _, _, folder = starter
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000


def test_generation_samples_from_the_whole_distribution(starter) -> None:
    model, tokenizer, _ = starter
    settings = model.generation_config
    assert settings.do_sample is True
    assert (settings.temperature, settings.top_k, settings.top_p) == (1.0, 0, 1.0)
    assert settings.eos_token_id == tokenizer.eos_token_id
    assert settings.pad_token_id == tokenizer.pad_token_id


def test_older_versions_of_transformers_know_the_tokenizer(starter) -> None:
    _, _, folder = starter
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]


def test_pad_and_end_of_turn_are_two_tokens(starter) -> None:
    _, tokenizer, _ = starter
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_any_text_survives_encoding(starter) -> None:
    _, tokenizer, _ = starter
    for text in ("naïve — 漢字 🙂\n\ttab", "  two  blanks  ", human_texts()[0][:500]):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_two_starters_share_one_tokenizer() -> None:
    first, second = ((folder / "tokenizer.json").read_bytes() for folder in FOLDERS)
    assert first == second


def ids_of(tokenizer, messages, **options) -> list[int]:
    return tokenizer.apply_chat_template(messages, return_dict=False, **options)


def test_the_tokens_of_a_history_begin_every_continuation(starter) -> None:
    _, tokenizer, _ = starter
    longer = ids_of(tokenizer, [*HISTORY, {"role": "user", "content": " Thanks!"}])
    for turns in range(1, len(HISTORY) + 1):
        ids = ids_of(tokenizer, HISTORY[:turns])
        assert longer[: len(ids)] == ids
        assert ids[-1] == tokenizer.eos_token_id
    asked = ids_of(tokenizer, HISTORY[:2], add_generation_prompt=True)
    assert longer[: len(asked)] == asked


def test_training_rows_are_what_the_chat_template_says(starter) -> None:
    _, tokenizer, _ = starter
    conversations = pretraining_conversations(random.Random(0))
    for _ in range(50):
        conversation = next(conversations)
        ids, labels = encode(conversation, tokenizer)
        assert ids == ids_of(tokenizer, conversation)
        answers = [m["content"] for m in conversation if m["role"] == "assistant"]
        learnt = [id_ for id_ in labels if id_ != IGNORED]
        assert tokenizer.decode(learnt) == "".join(f"{text}<|end|>" for text in answers)


def test_an_unknown_role_is_refused(starter) -> None:
    _, tokenizer, _ = starter
    with pytest.raises(Exception, match="unknown role: tool"):
        ids_of(tokenizer, [{"role": "tool", "content": "x"}])


def test_no_test_prompt_is_in_the_training_text() -> None:
    test = {prompt.text for prompt in prompts("test")}
    pretraining = pretraining_conversations(random.Random(0))
    shown = demonstrations(VARIANTS[0].benign, VARIANTS[0].unsafe, random.Random(0))
    for conversations in (pretraining, shown):
        for _ in range(3000):
            assert not {message["content"] for message in next(conversations)} & test


def test_it_answers_in_many_ways_and_leaves_room_to_improve(starter) -> None:
    model, tokenizer, _ = starter
    torch.manual_seed(0)
    tokenizer.padding_side = "left"
    test = prompts("test")
    texts = [prompt.text for prompt in test[:300]]
    answers = sample(model, tokenizer, texts, 150)
    assert len(set(answers)) > 150
    means = mean_scores(texts, answers)
    assert 0.18 < means.helpfulness < 0.52
    assert 0.2 < means.safety < 0.52
    asked = [next(prompt.text for prompt in test if prompt.is_safety == sort) for sort in (0, 1)]
    for axis, text in enumerate(asked):
        answers = sample(model, tokenizer, [text] * 64, 64)
        assert len(set(answers)) > 16
        assert max(score(text, answer)[axis] for answer in answers) >= 0.75
