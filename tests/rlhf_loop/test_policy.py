"""The policy: its tokens, its log-probabilities whatever stands beside, its folder."""

import pytest
import torch

from rlhf_loop.policy import (
    Answer,
    answer_text,
    load_chat_model,
    position_ids,
    prompt_tokens,
    response_logits,
    response_logprobs,
    save_chat_model,
)
from tests.rlhf_loop.conftest import make_prompt
from tests.tiny_models import CONFIGS, tiny_chat_model


@pytest.fixture(scope="module", params=list(CONFIGS))
def policy(request, tmp_path_factory):
    folder = tiny_chat_model(tmp_path_factory.mktemp("model") / "chat", request.param)
    return load_chat_model(folder, "cpu")


def queries(tokenizer, count=9):
    return [prompt_tokens(tokenizer, make_prompt(i).messages) for i in range(count)]


def test_log_probabilities_do_not_depend_on_padding(policy):
    model, tokenizer = policy
    query = torch.tensor([queries(tokenizer, 1)[0]])
    response = torch.tensor([[20, 21, 22]])
    real = [torch.ones_like(rows, dtype=torch.bool) for rows in (query, response)]
    logits, hidden = response_logits(model, query, real[0], response, real[1])
    padded_query = torch.cat([torch.full((1, 5), 7), query], dim=1)
    padded_response = torch.cat([response, torch.full((1, 4), 9)], dim=1)
    masks = (
        torch.arange(padded_query.shape[1])[None] >= 5,
        torch.arange(padded_response.shape[1])[None] < 3,
    )
    padded, padded_hidden = response_logits(
        model, padded_query, masks[0], padded_response, masks[1]
    )
    torch.testing.assert_close(padded[:, :3], logits)
    torch.testing.assert_close(padded_hidden[:, :3], hidden)
    # A second derivation: the whole row through the model, shifted by hand.
    whole = model(torch.cat([query, response], dim=1)).logits[0].log_softmax(-1)
    start = query.shape[1] - 1
    expected = torch.stack([whole[start + i, token] for i, token in enumerate(response[0])])
    torch.testing.assert_close(response_logprobs(logits, response)[0], expected)


def test_temperature_scales_the_logits():
    logits, response = torch.randn(1, 1, 5), torch.tensor([[3]])
    expected = (logits / 0.7).log_softmax(-1)[0, 0, 3]
    assert response_logprobs(logits, response, 0.7).item() == pytest.approx(expected.item())


def test_a_saved_model_is_the_same_and_samples(chat_model, tmp_path):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    save_chat_model(model, tokenizer, tmp_path)
    again, other = load_chat_model(tmp_path, "cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.generation_config.do_sample is True
    assert again.generation_config.top_k == 0
    assert other.chat_template == tokenizer.chat_template
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".bin", ".pt")]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no model"):
        load_chat_model(tmp_path)


def test_weights_that_are_cut_short_are_refused(tmp_path):
    file = tiny_chat_model(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="holds no chat model: Error while deserializing"):
        load_chat_model(tmp_path)


def test_positions_count_real_tokens_only():
    mask = torch.tensor([[False, False, True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2, 2]]


def test_the_text_is_without_special_tokens(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    tokens = tokenizer.encode(" Two years.", add_special_tokens=False)
    assert answer_text(tokenizer, Answer([*tokens, tokenizer.eos_token_id], True)) == "Two years."
