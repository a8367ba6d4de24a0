"""Log-probabilities of chosen tokens are the model's own, however they are read."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
)

from demo.rounds import CHECKPOINTS
from reward.attention import Layout
from reward.prefix_tree import prefix_tree
from rlhf_loop.learning import likelihood
from rlhf_loop.learning.likelihood import (
    TokenRow,
    divergences,
    reading,
    row_logprobs,
    tail_row,
    token_logprobs,
)
from rlhf_loop.policy import load_chat_model
from tests.tiny_models import CONFIGS, SHAPE, tiny_chat_model

STEM = [40, 41, 42, 43, 44, 45, 46, 47, 48, 49]
ROWS = [
    TokenRow([*STEM, 50, 51, 52], [10, 11, 12]),
    TokenRow([*STEM, 60, 61], [3, 10, 11]),
    TokenRow([70, 71, 72], [1, 2]),
    TokenRow([*STEM, 50, 51, 80, 81, 82, 83], [12, 15]),
]


def built(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def one_by_one(model, rows):
    """Straight from the definition: each row alone through the whole model."""
    found = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.tokens]), use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        found += [logprobs[w - 1, row.tokens[w]] for w in row.wanted]
    return torch.stack(found)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_read_right(model, way):
    weights = torch.linspace(-1, 2, sum(len(row.wanted) for row in ROWS))
    expected = one_by_one(model, ROWS)
    wanted = gradients(model, (expected * weights).sum())
    with reading(model) as read:
        assert read.way == way
        found = token_logprobs(read, ROWS)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # float32 sums
        ours = gradients(model, (found * weights).sum())
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one_by_one(model, ROWS), expected)  # as if nothing had been


@pytest.mark.parametrize("architecture", CONFIGS)
def test_it_works(architecture, tmp_path):
    model, _ = load_chat_model(tiny_chat_model(tmp_path, architecture), "cpu")
    assert_read_right(model, "tree")


def test_capped_logits_and_windows_of_some_layers():
    config = Gemma2Config(
        **SHAPE, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, sliding_window=6,
        query_pre_attn_scalar=8, tie_word_embeddings=False,
    )  # fmt: skip
    assert_read_right(built(config), "tree")


def test_a_window_shorter_than_the_rows():
    assert_read_right(
        built(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=5)), "tree"
    )


def test_a_recurrent_model_is_read_row_by_row(capsys):
    config = MambaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=4
    )
    assert_read_right(built(config), "rows")
    assert "Rows do not share their prefixes" in capsys.readouterr().out


def test_scaled_logits():
    config = CohereConfig(**SHAPE, num_key_value_heads=2, logit_scale=0.5, pad_token_id=0)
    assert_read_right(built(config), "tree")


class Louder(LlamaForCausalLM):
    """A model that does to its logits what nobody has heard of."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output


def test_a_model_that_changes_its_head_s_logits_is_read_whole(capsys):
    torch.manual_seed(0)
    assert_read_right(Louder(CONFIGS["llama"]()).eval(), "whole")
    assert "The head cannot be read alone" in capsys.readouterr().out


def test_logits_that_would_be_bfloat16_are_refused():
    torch.manual_seed(0)
    model = Louder(CONFIGS["llama"]()).eval()
    sentence = "they would be bfloat16 like its trunk; allowed is float32"
    with pytest.raises(ValueError, match=sentence), reading(model, "bfloat16"):
        pass


def test_all_of_an_answer_is_wanted_and_its_last_token_is_no_input():
    row = tail_row([1, 2, 3], [4, 5])
    assert row == ([1, 2, 3, 4, 5], [3, 4])
    assert row.inputs == [1, 2, 3, 4]


def test_sums_of_rows(chat_model):
    model, _ = load_chat_model(chat_model, "cpu")
    with reading(model) as read:
        each = token_logprobs(read, ROWS).split([len(row.wanted) for row in ROWS])
        torch.testing.assert_close(
            row_logprobs(read, ROWS), torch.stack([part.sum() for part in each])
        )


@pytest.mark.parametrize("kind", [LlamaForCausalLM, Louder])
def test_divergences_by_definition(chat_model, kind):
    """Of whole next-token distributions, at the wanted places, whichever way a model is read."""
    model, _ = load_chat_model(chat_model, "cpu")
    torch.manual_seed(5)
    other = kind(CONFIGS["llama"]()).eval()
    expected = []
    for row in ROWS:
        ids = torch.tensor([row.tokens])
        mine, its = (m(ids).logits[0].double().softmax(-1) for m in (model, other))
        expected += [(mine[w - 1] * (mine[w - 1] / its[w - 1]).log()).sum() for w in row.wanted]
    with reading(model) as read, reading(other) as theirs:
        assert theirs.way == ("whole" if kind is Louder else "tree")
        found = divergences(read, theirs, ROWS)
        assert divergences(read, read, ROWS).abs().max() < 1e-6
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert found.min() > 1e-3


def test_a_model_in_bfloat16_shares_prefixes_too(capsys):
    """It rounds by a hundred times what float32 does, which says nothing against its masks."""
    model, _ = load_chat_model(CHECKPOINTS / "starter-a", "cpu", "bfloat16")
    with reading(model) as read:
        assert read.way == "tree"
    assert capsys.readouterr().out == ""


def test_divergences_of_heads_padded_to_other_widths(chat_model, monkeypatch):
    """As Qwen's 0.5B and 7B: the same words, and rows of the head behind them that stand for none.
    Small chunks, so that both have the same ones."""
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 20 * SHAPE["vocab_size"])
    model, _ = load_chat_model(chat_model, "cpu")
    padded, _ = load_chat_model(chat_model, "cpu")
    padded.resize_token_embeddings(SHAPE["vocab_size"] + 64, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().weight[SHAPE["vocab_size"] :] = 0.0
    with reading(model) as read, reading(padded) as other:
        assert divergences(read, other, ROWS).abs().max() < 1e-6
        assert divergences(other, read, ROWS).abs().max() < 1e-6


def test_logits_of_the_whole_vocabulary_are_never_kept(chat_model, monkeypatch):
    model, _ = load_chat_model(chat_model, "cpu")
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 20 * SHAPE["vocab_size"])
    kept, heights = [], []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, output: heights.append(output.shape[0]))
    rows = [TokenRow(list(range(20, 60)), list(range(1, 40)))]
    with (
        reading(model) as read,
        torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor
        ),
    ):
        heights.clear()
        loss = token_logprobs(read, rows).sum()
        logits = [shape for shape in kept if shape[-1:] == (SHAPE["vocab_size"],)]
        assert logits == []
        loss.backward()
    assert max(heights) == 20
    assert sum(heights) == 2 * 39  # once on the way there, once on the way back


def test_a_shared_prefix_is_computed_once(chat_model):
    model, _ = load_chat_model(chat_model, "cpu")
    seen = []
    model.base_model.embed_tokens.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with reading(model) as read:
        seen.clear()
        token_logprobs(read, ROWS)
    # Last tokens are no input; two tokens that rows 0 and 3 share are too few to be shared.
    distinct = len(STEM) + 2 + 1 + 2 + 5
    assert [tokens.numel() for tokens in seen] == [distinct]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=7))
def test_the_places_of_a_row_spell_it(rows):
    for shortest in (1, 3):
        tree = prefix_tree(rows, shortest)
        layout = Layout(tree, torch.device("cpu"), [range(len(row)) for row in rows])
        places = iter(layout.places.tolist())
        for row in rows:
            mine = list(islice(places, len(row)))
            assert [tree.tokens[place] for place in mine] == row
            assert [tree.positions[place] for place in mine] == list(range(len(row)))
