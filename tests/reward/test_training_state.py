"""What training resumes from comes back bit for bit, or is refused with its file's name."""

from __future__ import annotations

import copy

import pytest
import torch

from reward.training_state import load_state, save_state

FILES = ["weights.safetensors", "optimiser.safetensors", "position.json"]


def a_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def one_step(model, optimiser):
    model(torch.arange(8.0).view(2, 4)).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.fixture
def saved(tmp_path):
    model, optimiser = a_model()
    one_step(model, optimiser)
    save_state(tmp_path, model, optimiser, {"step": 1})
    one_step(model, optimiser)
    return tmp_path, model


def test_the_next_step_is_bit_for_bit_the_same(saved):
    folder, went_on = saved
    model, optimiser = a_model()
    assert load_state(folder, model, optimiser) == {"step": 1}
    one_step(model, optimiser)
    for mine, theirs in zip(model.parameters(), went_on.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["missing", "cut short"])
def test_a_damaged_file_is_named_and_nothing_is_changed(saved, name, fault):
    folder, _ = saved
    file = folder / name
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-5])
    model, optimiser = a_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"checkpoint's .*{name} cannot be read"):
        load_state(folder, model, optimiser)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not optimiser.state


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model, optimiser = a_model()
    with torch.no_grad():
        model[0].bias[2] = float("inf")
    with pytest.raises(ValueError, match=r"have come apart: 0\.bias is not finite"):
        save_state(tmp_path, model, optimiser, {"step": 1})
    assert not list(tmp_path.iterdir())


def test_another_model_is_refused(saved):
    folder, _ = saved
    other = torch.nn.Sequential(torch.nn.Linear(4, 3))
    with pytest.raises(ValueError, match="is of another model: 1"):
        load_state(folder, other, torch.optim.AdamW(other.parameters()))
    wide = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 1))
    with pytest.raises(ValueError, match=r"0.weight has the shape \(3, 4\), not \(5, 4\)"):
        load_state(folder, wide, torch.optim.AdamW(wide.parameters()))
