"""Which weights an address answers with: handed over once, looked at, refused where others do."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from rlhf_loop.engines import engine_for
from rlhf_loop.rejection import run_rejection
from rlhf_loop.serving import SamplerRefused, serve
from rlhf_loop.serving.weights import PROBES, hand_over
from tests.reward.chat_server import chat_server
from tests.rlhf_loop.drawing_server import as_vllm

pytestmark = pytest.mark.usefixtures("nobody_asked")


def test_each_policy_is_handed_over_once(rejection, tmp_path, chat_model, loaded):
    note, code = tmp_path / "handed", 'import sys; open(sys.argv[1], "a").write(sys.argv[2])'
    command = f"{sys.executable} -c '{code}' {note} {{folder}};"
    with chat_server(as_vllm(loaded)) as server:
        config = replace(rejection, address=server.address, hand_over=command)
        for _ in range(3):
            address = engine_for(config, *loaded)
        once = len(server.heard)
        assert note.read_text() == f"{chat_model};"
        assert (address.model, address.url) == (str(chat_model), server.address)
        hand_over(config, "other")
        engine_for(config, *loaded)
    assert note.read_text() == f"{chat_model};other;{chat_model};"
    assert len(server.heard) > once > len(PROBES)  # looked at again, once each


@pytest.mark.parametrize("changed", ["head", "trunk"])
def test_an_address_that_kept_a_part_of_the_old_weights_is_refused(
    rejection, chat_model, loaded, changed
):
    """As vLLM 0.32 does on a CPU: of tied weights the output's are those from before."""
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    noise = torch.Generator().manual_seed(0)
    weight = {"head": model.lm_head, "trunk": model.model.layers[0].mlp.down_proj}[changed].weight
    other = weight + 30 * weight.std() * torch.randn(weight.shape, generator=noise)
    if changed == "head":
        model.lm_head.weight = torch.nn.Parameter(other)  # no longer tied
    else:
        weight.data = other
    with chat_server(as_vllm((model, tokenizer))) as server:
        config = replace(rejection, address=server.address)
        refused = rf"{server.address} does not serve {chat_model}: .* allowed by weights_tolerance"
        with pytest.raises(SamplerRefused, match=refused):
            engine_for(config, *loaded)
        engine_for(replace(config, weights_tolerance=50.0), *loaded)


def test_weights_that_are_rounded_are_taken(rejection, loaded):
    rounded = copy.deepcopy(loaded[0]).to(torch.bfloat16)
    with chat_server(as_vllm((rounded, loaded[1]))) as server:
        config = replace(rejection, address=server.address)
        assert engine_for(config, *loaded).url == server.address


def test_an_address_that_kept_weights_a_small_step_away_is_refused(rejection, loaded):
    """Less than is allowed for rounding: it is found since it says what was said before."""
    stepped, noise = copy.deepcopy(loaded[0]), torch.Generator().manual_seed(0)
    for weight in stepped.model.layers.parameters():
        weight.data += 0.02 * weight.std() * torch.randn(weight.shape, generator=noise)
    before, after = ((copy.deepcopy(m).to(torch.bfloat16), loaded[1]) for m in (loaded[0], stepped))
    serving = [before]
    with chat_server(lambda request: as_vllm(serving[-1])(request)) as server:
        config = replace(rejection, address=server.address)
        served = partial(serve, config, tokenizer=loaded[1])
        served(model=loaded[0], folder="one")
        with pytest.raises(SamplerRefused, match=r"does not serve two: .* what it served before"):
            served(model=stepped, folder="two")
        serving.append(after)
        served(model=stepped, folder="two")
        served(model=stepped, folder="the same weights")


def test_without_log_probabilities_nothing_is_refused(rejection, loaded):
    with chat_server(as_vllm(loaded, logprobs=None)) as server:
        config = replace(rejection, address=server.address)
        assert engine_for(config, *loaded).url == server.address


def test_a_hand_over_that_fails_ends_the_run(rejection):
    command = f"{sys.executable} -c 'import sys; sys.exit(\"the server is full\")' {{folder}}"
    config = replace(rejection, address="http://x", hand_over=command)
    with pytest.raises(SamplerRefused, match=r"was not handed .* the server is full"):
        run_rejection(config)
