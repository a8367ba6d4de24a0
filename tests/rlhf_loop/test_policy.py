"""Drawing answers: what is drawn has the computed probabilities, whatever stands beside."""

import pytest
import torch

from rlhf_loop.policy import (
    Answer,
    Drawing,
    answer_text,
    draw_tokens,
    generate,
    generate_answers,
    load_chat_model,
    position_ids,
    prompt_tokens,
    response_logits,
    response_logprobs,
    row_seed,
    save_chat_model,
    stop_tokens,
)
from tests.rlhf_loop.conftest import make_prompt
from tests.tiny_models import CONFIGS, tiny_chat_model


@pytest.fixture(scope="module", params=list(CONFIGS))
def policy(request, tmp_path_factory):
    folder = tiny_chat_model(tmp_path_factory.mktemp("model") / "chat", request.param)
    return load_chat_model(folder, "cpu")


def queries(tokenizer, count=9):
    return [prompt_tokens(tokenizer, make_prompt(i).messages) for i in range(count)]


def test_an_answer_does_not_depend_on_its_neighbours(policy):
    model, tokenizer = policy
    prompts, seeds = queries(tokenizer), [row_seed(0, i) for i in range(9)]
    drawing = Drawing(24, temperature=1.3)
    together = generate(model, tokenizer, prompts, seeds, drawing)
    for rows in (1, 2, 4):
        assert generate_answers(model, tokenizer, prompts, seeds, drawing, rows) == together
    assert len({tuple(answer.tokens) for answer in together}) > 1


def test_greedy_answers_are_those_of_transformers(policy):
    model, tokenizer = policy
    for prompt in queries(tokenizer, 3):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
            do_sample=False, max_new_tokens=12,
        )[0, len(prompt) :].tolist()  # fmt: skip
        [found] = generate(model, tokenizer, [prompt], [0], Drawing(12, temperature=0))
        assert found.tokens == expected


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


def test_tokens_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = draw_tokens(probabilities.log().expand(1000, 4), uniform, 1.0, 1.0)
    assert drawn.bincount(minlength=4).tolist() == [500, 0, 300, 200]


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [0]), (0.6, [0, 2]), (0.81, [0, 2, 3])])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(1000, 4)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert draw_tokens(logits, uniform, 1.0, top_p).unique().tolist() == kept


def test_the_ends_of_the_uniform_range_draw_possible_tokens():
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, 4)
    assert draw_tokens(logits, torch.tensor([0.0, 1 - 1e-16]), 1.0, 1.0).tolist() == [1, 2]


def test_an_answer_ends_with_its_stop_token(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    end = tokenizer.eos_token_id
    prompts, seeds = queries(tokenizer) * 20, list(range(180))
    answers = generate(model, tokenizer, prompts, seeds, Drawing(40, temperature=1.5))
    finished = [answer for answer in answers if answer.finished]
    assert finished
    assert len(finished) < 180
    for answer in answers:
        assert (answer.tokens[-1] == end) == answer.finished
        assert end not in answer.tokens[:-1]
        assert answer.finished or len(answer.tokens) == 40


def test_a_stop_token_of_the_generation_config_ends_an_answer(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    other = generate(model, tokenizer, queries(tokenizer, 1), [0], Drawing(5, 0))[0].tokens[1]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    assert stop_tokens(model, tokenizer) == {tokenizer.eos_token_id, other}
    [answer] = generate(model, tokenizer, queries(tokenizer, 1), [0], Drawing(5, 0))
    assert answer.finished
    assert answer.tokens[-1] == other


def test_a_prompt_without_room_for_an_answer_is_refused(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    with pytest.raises(ValueError, match="a prompt has 250 tokens, allowed are 246"):
        generate_answers(model, tokenizer, [[5] * 250], [0], Drawing(10), 4)


def test_a_saved_model_is_the_same_and_samples(chat_model, tmp_path):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    save_chat_model(model, tokenizer, tmp_path)
    again, other = load_chat_model(tmp_path, "cpu")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.generation_config.do_sample is True
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
