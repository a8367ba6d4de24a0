"""Attention over a prefix tree, for any transformers decoder whose attention can be exchanged.

H heads, D channels of a head, N packed tokens. Everything but attention works on tokens one by one,
so it is done once for each distinct token; attention takes chain by chain what stands before it.
On CUDA in bfloat16 all chains go through one kernel (FlashAttention with rows of any length: Dao
2023), once that has been seen to give what chain by chain gives.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from reward.prefix_tree import PrefixTree, prefix_tree

NAME = "prefix_tree"
ALIKE = 0.03  # of the norm: bfloat16 rounds to 0.004, a wrong mask is far beyond


class Gathered(NamedTuple):
    """C chains as rows of different lengths, for a kernel that takes such: each has its own tokens
    as queries, and as keys all that stands before it and they."""

    keys: Tensor
    """(K,) the packed index of every chain's keys, one chain after the other."""
    query_starts: Tensor
    """(C+1,) int32, where each chain's queries begin, and the end."""
    key_starts: Tensor
    """(C+1,) int32, the same of its keys."""
    most_queries: int
    most_keys: int


class Layout:
    """A prefix tree on a device, as the attention and the last layer need it.

    ``places``: which tokens of each row are read, the last one when not given.
    """

    def __init__(
        self, tree: PrefixTree, device: torch.device, places: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.tokens = torch.tensor([tree.tokens], device=device)  # (1, N)
        self.positions = torch.tensor([tree.positions], device=device)  # (1, N)
        read = tree.ends if places is None else _packed(tree, places)
        self.places = torch.tensor(read, dtype=torch.long, device=device)  # row by row
        self.read = torch.tensor(sorted(set(read)), dtype=torch.long, device=device)
        self.sizes = [chain.end - chain.start for chain in tree.chains]
        self.windows: set[int | None] = set()  # what the model's layers asked for
        starts = [chain.start for chain in tree.chains]
        self.before = [
            [(c, run[0] - starts[c], run[1] - starts[c]) for run, c in _homes(starts, chain.before)]
            for chain in tree.chains
        ]
        self._runs = [(*chain.before, (chain.start, chain.end)) for chain in tree.chains]
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    @cached_property
    def gathered(self) -> Gathered:
        """All chains with their keys, for a kernel that does them at once; made on first use."""
        device = self.tokens.device
        keys = [[i for run in runs for i in range(*run)] for runs in self._runs]
        lengths = [len(of) for of in keys]
        queries_at, keys_at = (
            torch.tensor([0, *accumulate(of)], dtype=torch.int32, device=device)
            for of in (self.sizes, lengths)
        )
        every = torch.tensor([i for of in keys for i in of], device=device)
        return Gathered(every, queries_at, keys_at, max(self.sizes), max(lengths))

    def mask(self, chain: int, window: int | None) -> Tensor | None:
        """What a chain's tokens may attend to, (their number, all before them and they); None
        where that is simply everything up to themselves, from the row's first token on."""
        before = sum(end - start for _, start, end in self.before[chain])
        keys = before + self.sizes[chain]
        if not before and (window is None or keys <= window):
            return None
        wanted = (chain, window if window is not None and keys > window else None)
        if wanted not in self._masks:
            device = self.tokens.device
            ones = torch.ones(self.sizes[chain], keys, dtype=torch.bool, device=device)
            mask = ones.tril(before)
            self._masks[wanted] = mask if wanted[1] is None else mask.triu(before - wanted[1] + 1)
        return self._masks[wanted]


def _packed(tree: PrefixTree, places: Sequence[Sequence[int]]) -> list[int]:
    """The packed indices of those places of the rows, row by row."""
    found = []
    for path, wanted in zip(tree.paths, places, strict=True):
        row = [i for run in path for i in range(*run)]
        found += [row[place] for place in wanted]
    return found


def _homes(
    starts: list[int], runs: tuple[tuple[int, int], ...]
) -> list[tuple[tuple[int, int], int]]:
    """Each run with the chain that it lies in."""
    return [(run, bisect_right(starts, run[0]) - 1) for run in runs]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of the tree; dropout is never applied.

    ``query`` is (1, H, N, D), ``key`` and ``value`` are that or have fewer heads; returns
    (1, N, H, D). Called by the layers of a model that ``set_attn_implementation`` was told NAME.
    Raises ValueError where that model is called without a ``layout``.
    """
    if layout is None:
        raise ValueError("attention over a prefix tree was asked for without a layout")
    layout.windows.add(sliding_window)
    if _suits(query, key, value, softcap) and _agrees(
        query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3],
        sliding_window is not None,
    ):  # fmt: skip
        return _at_once(query, key, value, layout, scaling, sliding_window), None
    return _chain_by_chain(query, key, value, layout, scaling, sliding_window, softcap), None


def _chain_by_chain(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None,
    sliding_window: int | None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    keys, values = torch.split(key, layout.sizes, 2), torch.split(value, layout.sizes, 2)
    outputs = []
    for chain, q in enumerate(torch.split(query, layout.sizes, 2)):
        before = layout.before[chain]
        k = torch.cat([*(keys[c][:, :, a:b] for c, a, b in before), keys[chain]], 2)
        v = torch.cat([*(values[c][:, :, a:b] for c, a, b in before), values[chain]], 2)
        mask = layout.mask(chain, sliding_window)
        one = partial(_capped, softcap=softcap) if softcap else F.scaled_dot_product_attention
        grouped = k.shape[1] != q.shape[1]
        outputs.append(
            one(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
        )
    return torch.cat(outputs, 2).transpose(1, 2)


def _at_once(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float | None,
    sliding_window: int | None,
) -> Tensor:  # fmt: skip
    """The same by one kernel, whose causal mask ends at each row's lower right corner."""
    rows = layout.gathered
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, H, D)
    output = varlen_attn(
        q, k[rows.keys], v[rows.keys], rows.query_starts, rows.key_starts, rows.most_queries,
        rows.most_keys, scale=scaling, enable_gqa=k.shape[1] != q.shape[1],
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
    )  # fmt: skip
    assert isinstance(output, Tensor)  # without a wish for more it is the only thing
    return output[None]


def _suits(query: Tensor, key: Tensor, value: Tensor, softcap: float | None) -> bool:
    """Whether the kernel is for such tensors at all."""
    alike = query.dtype == key.dtype == value.dtype == torch.bfloat16
    return query.is_cuda and alike and not softcap


@cache
def _agrees(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, channels: int,
    has_window: bool,
) -> bool:  # fmt: skip
    """Whether one kernel gives what chain by chain gives in float32, and its gradients, for heads
    of these shapes: tried once, on a small tree. Says so where it does not."""
    stem, long, short = range(40), range(40, 70), range(70, 79)
    rows = [[*stem, *long], [*stem, *short], [*stem, *short, *long, 80], [*stem, *short, 81], [82]]
    layout = Layout(prefix_tree(rows, shortest=1), device)
    drawn = torch.Generator().manual_seed(0)
    window = 17 if has_window else None
    shapes = [(1, many, layout.tokens.shape[1], channels) for many in (heads, *[key_heads] * 2)]
    inputs = [torch.randn(shape, generator=drawn).to(device, dtype) for shape in shapes]
    weights = torch.randn(1, shapes[0][2], heads, channels, generator=drawn).to(device)

    def found(attention: Any, kind: torch.dtype) -> Tensor:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            leaves = [x.to(kind, copy=True).requires_grad_() for x in inputs]
            output = attention(*leaves, layout, None, window)
            gradients = torch.autograd.grad((output.float() * weights).sum(), leaves)
        return torch.cat([x.detach().flatten().float() for x in (output, *gradients)])

    try:
        expected = found(_chain_by_chain, torch.float32)
        apart: float = ((found(_at_once, dtype) - expected).norm() / expected.norm()).item()
    except RuntimeError as error:  # such as: not on this GPU, not for so many channels
        print(f"Attention goes chain by chain: {str(error).partition(chr(10))[0]}.", flush=True)
        return False
    if not apart < ALIKE:
        print(f"Attention goes chain by chain: one kernel comes out {apart:.1g} apart.", flush=True)
    return apart < ALIKE


def _capped(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float | None,
    enable_gqa: bool, softcap: float,
) -> Tensor:  # fmt: skip
    """Attention with logits held within ±softcap (Gemma 2), which SDPA has no word for."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if attn_mask is None:
        attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    logits = q @ k.transpose(2, 3) * (scale if scale is not None else q.shape[3] ** -0.5)
    logits = torch.tanh(logits / softcap) * softcap
    weights = logits.masked_fill(~attn_mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(v.dtype) @ v


def read_only_at_ends(trunk: Any) -> None:
    """Let the last layer put only the tokens that are read through its feed-forward part.

    Nothing for a trunk whose layers are not ``layers[…].mlp``.
    """
    layers = getattr(trunk, "layers", None)
    if not layers or not hasattr(layers[-1], "mlp"):
        return
    layer = layers[-1]
    kept: dict[str, Any] = {}

    def keep(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if "layout" in kwargs or "attention_mask" in kwargs:
            found = kwargs.get("layout")  # drawing answers has layouts of its own, read elsewhere
            kept["layout"] = found if isinstance(found, Layout) else None

    def before(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if kept.get("layout") is None:
            return None
        kept["shape"] = args[0].shape
        return (args[0][:, kept["layout"].read], *args[1:])

    def after(_: Any, args: Any, output: Tensor) -> Tensor | None:
        if kept.get("layout") is None:
            return None
        return output.new_zeros(kept["shape"]).index_copy(1, kept["layout"].read, output)

    for part in layer.children():  # its attention hears of the layout, again when it is recomputed
        if part is not layer.mlp:
            part.register_forward_pre_hook(keep, with_kwargs=True)
    layer.mlp.register_forward_pre_hook(before)
    layer.mlp.register_forward_hook(after)


AttentionInterface.register(NAME, attend)
