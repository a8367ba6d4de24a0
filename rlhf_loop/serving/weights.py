"""Which weights an address answers with: handed over to it, and looked at."""

from __future__ import annotations

import shlex
import statistics
import subprocess
from typing import Any

import torch

from reward import ranks
from reward.model import context_tokens
from reward.preferences import Message
from rlhf_loop.config import ServedPolicy
from rlhf_loop.policy import Drawing, prompt_tokens, stop_tokens
from rlhf_loop.serving.address import Address, SamplerRefused
from rlhf_loop.serving.asking import answers_from
from rlhf_loop.serving.known import Said, known

HAND_OVER_SECONDS = 1800
ROUNDING = 1e-5  # nats, of log-probabilities of the same weights
CERTAIN = 10.0  # log-likelihood ratio from which on it is the weights from before that answer
# What is asked to see which weights answer: everyday words, so that every model draws some tokens.
PROBES = (
    "Hello.", "Who are you?", "What can you do?", "Why is the sky blue?", "Write a short story.",
    "How do I bake bread?", "What is two plus two?", "Tell me about yourself.",
)  # fmt: skip
PROBE = Drawing(max_new_tokens=16)


def serve(
    compute: ServedPolicy, model: Any, tokenizer: Any, folder: str, needs_tokens: bool = False
) -> Address:
    """The address, which serves ``folder`` from now on; ``model`` has the same weights.

    A folder's name stands for its weights: what was handed over or found to be served once is not
    looked at again. Raises SamplerRefused where the address cannot be made to serve it, serves
    other weights, or gives no token ids and ``needs_tokens``.
    """
    address = Address(
        _url(compute),
        compute.served_model or folder,
        compute.timeout_seconds,
        compute.parallel_requests,
        tokenizer,
        tuple(sorted(stop_tokens(model, tokenizer))),
        context_tokens(model),
        model.config.get_text_config().vocab_size,
        needs_tokens,
    )
    if ranks.is_first():
        hand_over(compute, folder)
        refuse_other_weights(address, model, folder, compute.weights_tolerance)
    ranks.wait()
    return address


def _url(compute: ServedPolicy) -> str:
    return str(compute.address).rstrip("/").removesuffix("/v1")


def hand_over(compute: ServedPolicy, folder: str) -> None:
    """Run the command that makes the address serve ``folder``, unless it was the last one handed.

    Raises SamplerRefused where the command fails.
    """
    url = _url(compute)
    if compute.hand_over is None or known(url).handed == folder:
        return
    command = [word.replace("{folder}", folder) for word in shlex.split(compute.hand_over)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=HAND_OVER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SamplerRefused(f"{compute.address} was not handed {folder}: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        raise SamplerRefused(
            f"{compute.address} was not handed {folder}: {command[0]} ended with "
            f"{done.returncode}: {said}"
        )
    known(url).handed, known(url).checked = folder, None


def refuse_other_weights(address: Address, model: Any, folder: str, tolerance: float) -> None:
    """Let the address answer a few short questions; nothing is asked where that was done already.

    A server that goes on with a policy's old weights, or with some of them, answers without a word
    about it. Raises SamplerRefused where the log-probabilities that it gives its tokens are more
    than ``tolerance`` nats, in the mean, from those of ``model``, which has the weights of
    ``folder``, or where they are those of the weights that it served before. Without
    log-probabilities nothing can be seen.
    """
    if known(address.url).checked == folder:
        return
    its, own = _probe(address, model)
    apart = statistics.fmean(abs(its[at] - own[at]) for at in its) if its else 0.0
    if not apart <= tolerance:
        raise SamplerRefused(
            f"{address.url} does not serve {folder}: the log-probabilities of its tokens are "
            f"{apart:.3g} nats from this folder's in the mean, allowed by weights_tolerance is "
            f"{tolerance:.3g}; it may serve other weights, or have taken over a part of them"
        )
    if _is_rather(its, known(address.url).said, own):
        raise SamplerRefused(
            f"{address.url} does not serve {folder}: the log-probabilities of its tokens, "
            f"{apart:.3g} nats from this folder's in the mean, are those of what it served before"
        )
    known(address.url).checked, known(address.url).said = folder, own


@torch.no_grad()
def _probe(address: Address, model: Any) -> tuple[Said, Said]:
    """What the address says of the tokens of its own answers, and what the model does; nothing of
    answers without log-probabilities."""
    prompts = [[Message("user", words)] for words in PROBES]
    its: Said = {}
    own: Said = {}
    answers = answers_from(address, prompts, range(len(prompts)), PROBE)
    for prompt, answer in zip(prompts, answers, strict=True):
        if answer.logprobs is None:
            continue
        query = prompt_tokens(address.tokenizer, prompt)
        row = torch.tensor([[*query, *answer.tokens[:-1]]], device=model.device)
        logprobs = model(row).logits[0, len(query) - 1 :].float().log_softmax(-1)  # (T, V)
        found = logprobs.gather(-1, torch.tensor(answer.tokens, device=model.device)[:, None])
        places = [(*query, *answer.tokens[: n + 1]) for n in range(len(answer.tokens))]
        its |= zip(places, answer.logprobs, strict=True)
        own |= zip(places, found[:, 0].tolist(), strict=True)
    return its, own


def _is_rather(its: Said, old: Said, new: Said) -> bool:
    """Whether an address says what the old weights say and not what the new ones do, wherever all
    three say something: by the ratio of their likelihoods, errors normal and of one size."""
    both = its.keys() & old.keys()
    if not both:
        return False
    from_old = statistics.fmean((its[at] - old[at]) ** 2 for at in both)
    from_new = statistics.fmean((its[at] - new[at]) ** 2 for at in both)
    return len(both) * (from_new - from_old) > 2 * CERTAIN * max(from_old, ROUNDING**2)
