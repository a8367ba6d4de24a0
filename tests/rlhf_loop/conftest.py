from pathlib import Path

import pytest

from reward.model import save_reward_model, start_from_chat_model
from reward.preferences import Message, dialogue_root, read_json_lines
from rlhf_loop.config import RejectionConfig
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from rlhf_loop.serving import known
from tests.tiny_models import brief_chat_model, tiny_chat_model

SPLITS = (PromptSplit.TRAIN, PromptSplit.TRAIN, PromptSplit.VALIDATION, PromptSplit.TEST)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "chat"
    tiny_chat_model(folder)
    return folder


@pytest.fixture(scope="session")
def judges(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("judges")
    for seed, name in enumerate(("helpfulness", "safety")):
        save_reward_model(*start_from_chat_model(chat_model, seed), folder / name)
    return {name: folder / name for name in ("helpfulness", "safety")}


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    write_prompts(path, [make_prompt(i) for i in range(16)])
    return path


@pytest.fixture(scope="session")
def brief_model(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brief_chat_model(tmp_path_factory.mktemp("brief"), chat_model)


@pytest.fixture
def rejection(prompts: Path, chat_model: Path, judges: dict[str, Path], tmp_path: Path):
    """Settings of a short run of rejection sampling."""
    return RejectionConfig(
        prompts=prompts, policy=chat_model, **judges, out=tmp_path / "run", samples=2,
        max_new_tokens=8, epochs=1, batch=8,
    )  # fmt: skip


@pytest.fixture
def nobody_asked(monkeypatch):
    """No address was asked before, and nobody waits before it is asked again."""
    monkeypatch.setattr(known, "_known", {})
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def make_prompt(number: int) -> Prompt:
    messages = (Message("user", "Why " + "very " * (number % 3) + f"{number}?"),)
    root = dialogue_root(messages)
    return Prompt(f"p{number}", root, messages, number % 3 == 0, None, SPLITS[number % 4])


def read_lines(path: Path) -> list[dict[str, object]]:
    return [record for _, record in read_json_lines(path)]
