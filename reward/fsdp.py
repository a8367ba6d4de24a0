"""Weights divided among ranks, and put together again where a whole model is needed.

Every rank holds a part of each weight, its gradient and its moments (FSDP2: Zhao et al. 2023,
torch's ``fully_shard``). A process that is alone keeps its model as it is: nothing is wrapped, and
nothing sent. Left out: replicas of sharded groups of nodes (HSDP), tensor and pipeline parallelism.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from reward.ranks import count, is_first, summed, told


def place(model: Any, device: torch.device, dtype: str) -> None:
    """Put the reward model on the device, or this rank's shards of it.

    Of several ranks the first one's values are taken, sent tensor by tensor, each rank its own
    rows; what the others have in them does not matter, and a model without values (on the meta
    device) will do. Raises ValueError on all of them where it is not the same model.

    Weights, gradients' sums and moments stay float32. With ``dtype`` "bfloat16" the layers' weights
    are gathered in it, their norms' too, so that no rank ever holds a whole copy; embedding, last
    norm and head, and what is added up from layer to layer, stay float32 as under autocast alone.
    """
    divide_weights(model, [model.base_model, model.score], device, dtype)


def divide_weights(
    model: Any, roots: Sequence[Any], device: torch.device, dtype: str = "float32"
) -> None:
    """The same for any model. Each of ``roots`` gathers what is in none of its layers when it is
    called, and gives it up on the way back; a pass begins with the first of them."""
    if count() == 1:
        model.to(device)
        return
    values = _taken_out(model)
    _refuse_another(values)
    mesh = init_device_mesh(device.type, (count(),))
    low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for layer in reversed(_layers(roots[0])):
        policy = low if dtype == "bfloat16" else MixedPrecisionPolicy()
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    for root in roots:
        fully_shard(root, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # losses weigh by the whole step: sums, no means
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    model.to_empty(device=device)
    _put_in(model, values)
    model.announces = True
    roots[0].register_forward_pre_hook(partial(_announce, model), prepend=True)


def keep_step(model: Any, idle: Callable[[], None]) -> None:
    """Do ``idle``, a minibatch that changes nothing, for as long as another rank has one to do.

    Weights are gathered from all ranks in each, so who has none left must take part all the same.
    """
    if count() == 1:
        return
    model.announces = False
    while any(summed(0.0)):
        idle()
    model.announces = True


def _announce(model: Any, *_: Any) -> None:
    """Before each pass through the trunk: tell those in ``keep_step`` that one is coming."""
    if model.announces:
        summed(1.0)


def empty_copy(model: Any) -> Any:
    """A second model for passes without gradient, to be filled by ``gathered``; alone, the same."""
    if count() == 1:
        return model
    other = copy.deepcopy(model).requires_grad_(False)
    _empty(other)
    return other


def put_away(model: Any) -> list[Tensor]:
    """Take the weights out of a model that is only asked; returns this rank's rows of each for
    ``gathered``. Alone, they stay."""
    if count() == 1:
        return []
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (count(),))
    rows = [distribute_tensor(p.data, mesh, [Shard(0)]) for p in model.parameters()]
    _empty(model)
    return list(rows)


@contextmanager
def gathered(model: Any, rows: Iterable[Tensor]) -> Iterator[None]:
    """The whole weights in an emptied model, gathered once; freed at the end.

    ``rows`` are each weight's, in the order of ``model.parameters()``. Passes within send nothing,
    so ranks may make as many as they have work for (Llama 2, section 3.2.3: generation with sharded
    weights took about twenty times as long).
    """
    if count() == 1:
        yield
        return
    for parameter, own in zip(model.parameters(), rows, strict=True):
        parameter.data = whole(own.detach())
    try:
        yield
    finally:
        _empty(model)


@contextmanager
def as_divided(model: Any, dtype: str) -> Iterator[None]:
    """Within, a whole model computes in ``dtype`` what it does when it is divided: in bfloat16 with
    its layers' norms rounded as they are gathered, or a ratio of the two would not be 1. Alone, and
    in float32, it does already."""
    if count() == 1 or dtype == "float32":
        yield
        return
    vectors = [p for layer in _layers(model) for p in layer.parameters() if p.ndim < 2]
    exact = [vector.data for vector in vectors]
    for vector in vectors:
        vector.data = vector.data.to(torch.bfloat16).to(vector.dtype)
    try:
        yield
    finally:
        for vector, values in zip(vectors, exact, strict=True):
            vector.data = values


def _layers(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def _empty(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)


def _taken_out(model: Any) -> dict[str, Tensor]:
    """Every weight and buffer by name; the model is left with their shapes, and tied as it was."""
    values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    empty: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = empty.setdefault(id(tensor), _without_values(tensor))
    return values


def _without_values(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, tensor.requires_grad)
    return empty


def _refuse_another(values: Mapping[str, Tensor]) -> None:
    """Raises ValueError on all ranks where one has other tensors than the first."""
    own = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in values.items()}
    firsts = told(own)
    other = sorted(n for n in own.keys() | firsts.keys() if own.get(n) != firsts.get(n))
    if any(summed(len(other))):
        raise ValueError(
            f"several processes cannot divide this model: {', '.join(other[:1]) or 'a weight'} is "
            "not what its config.json says"
        )


@torch.no_grad()
def _put_in(model: Any, values: dict[str, Tensor]) -> None:
    """Send the first rank's ``values``, byte for byte; they are let go one by one."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        value = values.pop(name)
        if not isinstance(tensor, DTensor):
            if is_first():
                tensor.copy_(value)
            dist.broadcast(_bytes(tensor), 0)
            continue
        own = tensor.to_local()
        each = -(-tensor.shape[0] // count())  # rows, as fully_shard divides them
        rows = own.new_empty(each, *tensor.shape[1:])
        dist.scatter(_bytes(rows), _parts(value.to(own.device), each) if is_first() else None)
        own.copy_(rows[: len(own)])


def _parts(whole: Tensor, each: int) -> list[Tensor]:
    """Every rank's rows as bytes, filled up to ``each``: what is scattered has one size."""
    parts = []
    for rank in range(count()):
        rows = whole[rank * each : (rank + 1) * each]
        missing = rows.new_zeros(each - len(rows), *rows.shape[1:])
        parts.append(_bytes(torch.cat([rows, missing]) if len(missing) else rows))
    return parts


def _bytes(tensor: Tensor) -> Tensor:
    """The same memory of a contiguous tensor: every backend sends bytes, of any type."""
    return tensor.view(-1).view(torch.uint8)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of all ranks' shards, on each of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: Any) -> dict[str, Tensor]:
    """Weights and buffers by name, all ranks' shards put together on the first; the others, who
    must ask too, get nothing."""
    if count() == 1:
        return dict(model.state_dict())
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = every - {name for name, _ in model.named_parameters()}  # to a name that stands here
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name not in tied:
            put_together = whole(tensor)
            if is_first():
                state[name] = put_together.cpu()
    return state
