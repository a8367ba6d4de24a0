from typing import Any

import pytest

from rlhf_loop.policy import load_chat_model


@pytest.fixture(scope="session")
def loaded(chat_model) -> tuple[Any, Any]:
    """A chat model and its tokenizer."""
    return load_chat_model(chat_model, "cpu")
