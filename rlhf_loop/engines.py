"""Who draws the answers: this process, or an OpenAI-compatible server at an address.

``answer_prompts`` is the one way from prompts to answers, whichever it is. A server is asked for
everything that this process would give: exact tokens, their log-probabilities, a seed for each
answer. What it does not give is said in a sentence, once. docs/engines.md says which server gives
what, and how new weights reach it.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from reward import ranks
from reward.model import context_tokens
from reward.openai_client import CHAT, COMPLETIONS, Declined, Server, Unanswered, message_text
from reward.preferences import Message
from rlhf_loop.config import ServedPolicy
from rlhf_loop.drawing import generate_answers
from rlhf_loop.policy import Answer, Drawing, prompt_tokens, stop_tokens

API_KEY_VARIABLE = "SAMPLER_API_KEY"
ATTEMPTS = 3
HAND_OVER_SECONDS = 1800
STRANGERS = (401, 403)  # who asks is refused, whatever is asked
SHOWN = 60  # characters of a prompt that name it
Said = dict[tuple[int, ...], float]  # prompt and answer up to a token → its log-probability
_mentioned: set[tuple[str, str]] = set()  # the address, and about what a sentence was printed
_seeds_seen: set[str] = set()  # the addresses whose seeds were looked at
_handed: dict[str, str] = {}  # the folder that each address was last made to serve
_checked: dict[str, str] = {}  # the folder whose weights each address was last found to serve
_said: dict[str, Said] = {}  # of its probes, by the weights that each address last served
ROUNDING = 1e-5  # nats, of log-probabilities of the same weights
CERTAIN = 10.0  # log-likelihood ratio from which on it is the weights from before that answer
# What is asked to see which weights answer: everyday words, so that every model draws some tokens.
PROBES = (
    "Hello.", "Who are you?", "What can you do?", "Why is the sky blue?", "Write a short story.",
    "How do I bake bread?", "What is two plus two?", "Tell me about yourself.",
)  # fmt: skip
PROBE = Drawing(max_new_tokens=16)


class SamplerRefused(ConnectionError):
    """The address did not answer a request, or not with what can be used."""


class Unusable(RuntimeError):
    """What came is no answer of the model's to a prompt; outside it is a SamplerRefused."""


class RequestRefused(Unusable):
    """The address refuses a request as such, or gives no token ids."""


class Here(NamedTuple):
    """A model in this process."""

    model: Any
    tokenizer: Any
    rows: int


class Address(NamedTuple):
    """A model at an address."""

    url: str
    model: str
    timeout_seconds: float
    parallel_requests: int
    tokenizer: Any
    stops: tuple[int, ...]
    context: int | None = None  # tokens, of the folder that it serves
    vocabulary: int | None = None  # its token ids are below; the tokenizer's when not given
    needs_tokens: bool = False  # refused where it does not say which tokens it drew


Progress = Callable[[int], None]


def engine_for(compute: ServedPolicy, model: Any, tokenizer: Any) -> Here | Address:
    """Who answers for a model that was loaded here: it, or the address that serves its folder.

    Raises SamplerRefused where the address cannot be made to serve it, or serves other weights.
    """
    if compute.address is None:
        return Here(model, tokenizer, compute.generation_rows)
    return serve(compute, model, tokenizer, str(model.name_or_path))


def serve(
    compute: ServedPolicy, model: Any, tokenizer: Any, folder: str, needs_tokens: bool = False
) -> Address:
    """The address, which serves ``folder`` from now on; ``model`` has the same weights.

    A folder's name stands for its weights: what was handed over or found to be served once is not
    looked at again. Raises SamplerRefused as ``engine_for``, and where an address that
    ``needs_tokens`` gives none.
    """
    address = Address(
        str(compute.address).rstrip("/").removesuffix("/v1"),
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


def hand_over(compute: ServedPolicy, folder: str) -> None:
    """Run the command that makes the address serve ``folder``, unless it was the last one handed.

    Raises SamplerRefused where the command fails.
    """
    if compute.hand_over is None or _handed.get(str(compute.address)) == folder:
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
    _handed[str(compute.address)] = folder
    _checked.clear()


def refuse_other_weights(address: Address, model: Any, folder: str, tolerance: float) -> None:
    """Let the address answer a few short questions; nothing is asked where that was done already.

    A server that goes on with a policy's old weights, or with some of them, answers without a word
    about it. Raises SamplerRefused where the log-probabilities that it gives its tokens are more
    than ``tolerance`` nats, in the mean, from those of ``model``, which has the weights of
    ``folder``, or where they are those of the weights that it served before. Without
    log-probabilities nothing can be seen.
    """
    if _checked.get(address.url) == folder:
        return
    its, own = _probe(address, model)
    apart = statistics.fmean(abs(its[at] - own[at]) for at in its) if its else 0.0
    if not apart <= tolerance:
        raise SamplerRefused(
            f"{address.url} does not serve {folder}: the log-probabilities of its tokens are "
            f"{apart:.3g} nats from this folder's in the mean, allowed by weights_tolerance is "
            f"{tolerance:.3g}; it may serve other weights, or have taken over a part of them"
        )
    if _is_rather(its, _said.get(address.url, {}), own):
        raise SamplerRefused(
            f"{address.url} does not serve {folder}: the log-probabilities of its tokens, "
            f"{apart:.3g} nats from this folder's in the mean, are those of what it served before"
        )
    _checked[address.url], _said[address.url] = folder, own


@torch.no_grad()
def _probe(address: Address, model: Any) -> tuple[Said, Said]:
    """What the address says of the tokens of its own answers, and what the model does; nothing of
    answers without log-probabilities."""
    prompts = [[Message("user", words)] for words in PROBES]
    its: Said = {}
    own: Said = {}
    answers = answer_prompts(address, prompts, range(len(prompts)), PROBE)
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


def has_room(engine: Here | Address, prompt: Sequence[Message], max_new_tokens: int) -> bool:
    """Whether the prompt and an answer of so many tokens are within the model's context; True where
    that is not known."""
    context = engine.context if isinstance(engine, Address) else context_tokens(engine.model)
    if context is None:
        return True
    return len(prompt_tokens(engine.tokenizer, prompt)) + max_new_tokens <= context


def answer_prompts(
    engine: Here | Address,
    prompts: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    drawing: Drawing,
    progress: Progress = lambda done: None,
) -> list[Answer]:
    """One answer to each prompt by its own seed, in the prompts' order; none to none.

    Raises ValueError for a prompt that leaves no room for an answer here, SamplerRefused where an
    address does not answer, or refuses a prompt.
    """
    if not prompts:
        return []
    if isinstance(engine, Address):
        return _answers_from(engine, prompts, seeds, drawing, progress)
    queries = [prompt_tokens(engine.tokenizer, prompt) for prompt in prompts]
    return generate_answers(
        engine.model, engine.tokenizer, queries, seeds, drawing, engine.rows, progress
    )


# --- an address ----------------------------------------------------------------------------------

Ask = Callable[[Server, Address, Sequence[Message], int, Drawing], Answer]


def _answers_from(
    address: Address,
    prompts: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    drawing: Drawing,
    progress: Progress,
) -> list[Answer]:
    with _server(address) as server, ThreadPoolExecutor(address.parallel_requests) as pool:
        with _named(prompts[0]):
            way = _way_of_asking(server, address, prompts[0], seeds[0], drawing)

        def ask(of: tuple[Sequence[Message], int]) -> Answer:
            prompt, seed = of
            with _named(prompt):
                return way(server, address, prompt, seed, drawing)

        asked = [*zip(prompts, seeds, strict=True)]
        again = asked[:1] if drawing.temperature > 0 and address.url not in _seeds_seen else []
        answers = []
        for answer in pool.map(ask, asked + again):
            answers.append(answer)
            progress(min(len(answers), len(prompts)))
    if again:
        _seeds_seen.add(address.url)
        if _words(answers[-1]) != _words(answers[0]):
            print(f"{address.url} does not keep seeds: asked again it would answer differently.")
    return answers[: len(prompts)]


def _server(address: Address) -> Server:
    """Raises SamplerRefused for an address, or a key, that cannot be used."""
    try:
        return Server(
            address.url,
            API_KEY_VARIABLE,
            timeout_seconds=address.timeout_seconds,
            attempts=ATTEMPTS,
            parallel_requests=address.parallel_requests,
        )
    except ValueError as error:
        raise SamplerRefused(str(error)) from None


@contextmanager
def _named(prompt: Sequence[Message]) -> Iterator[None]:
    """Raises SamplerRefused, which names the prompt, where there is no usable answer to it."""
    try:
        yield
    except Unusable as error:
        end = repr(prompt[-1].content[-SHOWN:])
        raise SamplerRefused(f"the prompt that ends with {end}: {error}") from None


def _words(answer: Answer) -> tuple[list[int], str | None]:
    return answer.tokens, answer.text


def _was_mentioned(address: Address, about: str) -> bool:
    return (address.url, about) in _mentioned


def _say_once(address: Address, about: str, sentence: str) -> None:
    if not _was_mentioned(address, about):
        _mentioned.add((address.url, about))
        print(sentence, flush=True)


def _way_of_asking(
    server: Server, address: Address, prompt: Sequence[Message], seed: int, drawing: Drawing
) -> Ask:
    """By token ids where the address can, by chat messages otherwise.

    An address that refuses a prompt, or how answers are drawn, refuses it in either way: what it
    can is said of it only where it answers in one. Raises Unusable where it does in neither,
    SamplerRefused where it gives no token ids and has to.
    """
    short = drawing._replace(max_new_tokens=1)
    try:
        _ask_by_tokens(server, address, prompt, seed, short)
    except RequestRefused as by_tokens:
        if address.needs_tokens:
            raise SamplerRefused(
                f"{address.url} does not answer by token ids, and what is learnt from are the very "
                f"tokens that were drawn, not a text: {by_tokens}"
            ) from None
        if not _was_mentioned(address, "tokens"):
            try:
                _ask_by_messages(server, address, prompt, seed, short)
            except RequestRefused as by_messages:
                raise Unusable(f"{by_messages}; asked by token ids: {by_tokens}") from None
        _say_once(
            address,
            "tokens",
            f"{address.url} is asked by chat messages and answers with text, without "
            f"log-probabilities: {by_tokens}",
        )
        return _ask_by_messages
    return _ask_by_tokens


def _ask_by_tokens(
    server: Server, address: Address, prompt: Sequence[Message], seed: int, drawing: Drawing
) -> Answer:
    """Token ids there and back (vLLM). Raises RequestRefused where the address does not do that.

    Log-probabilities are taken at temperature 1 and top-p 1 only: a server may give them before or
    after both, and only then these are the same.
    """
    tokens = prompt_tokens(address.tokenizer, prompt)
    request = {
        "prompt": tokens,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(address.stops),
        "logprobs": 0,
        "return_token_ids": True,
        **_request(address, seed, drawing),
    }
    choice = _choice(server, COMPLETIONS, request)
    if not isinstance(choice.get("token_ids"), list):
        raise RequestRefused(f"{address.url} gives no token ids")
    if (choice.get("prompt_token_ids") or tokens) != tokens:
        raise Unusable(f"{address.url} changed the tokens of a prompt")
    drawn, finished = _drawn(address, choice["token_ids"], drawing), _is_finished(address, choice)
    if finished and drawn[-1] not in address.stops:
        raise Unusable(
            f"{address.url} ended an answer with the tokens {drawn[-3:]}; answers end with one of "
            f"{list(address.stops)}"
        )
    found = _logprobs(address, choice, len(drawn))
    if found is None:
        _say_once(address, "logprobs", f"{address.url} gives no log-probabilities.")
    is_full_softmax = drawing.temperature == 1 and drawing.top_p == 1
    return Answer(drawn, finished, found if is_full_softmax else None)


def _ask_by_messages(
    server: Server, address: Address, prompt: Sequence[Message], seed: int, drawing: Drawing
) -> Answer:
    """Chat messages there, text back; its tokens are those that the tokenizer writes it with."""
    request = {
        "messages": [message._asdict() for message in prompt],
        **_request(address, seed, drawing),
    }
    choice = _choice(server, CHAT, request)
    finished = _is_finished(address, choice)
    try:
        text = message_text(choice) or ""
    except ValueError as error:
        raise Unusable(f"{address.url} answered {error}") from None
    tokens = address.tokenizer.encode(text, add_special_tokens=False)
    tokens += list(address.stops[:1]) if finished else []
    return Answer(tokens, finished, text=text.strip())


def _request(address: Address, seed: int, drawing: Drawing) -> dict[str, Any]:
    return {
        "model": address.model,
        "temperature": drawing.temperature,
        "top_p": drawing.top_p,
        "max_tokens": drawing.max_new_tokens,
        "seed": seed,
    }


def _choice(server: Server, path: str, request: dict[str, Any]) -> dict[str, Any]:
    """Raises RequestRefused where the address refuses the request as such, SamplerRefused where it
    does not answer, sends elsewhere, or refuses who asks."""
    try:
        return server.ask(path, request, lambda choice: choice)
    except Unanswered as unanswered:
        raise SamplerRefused(f"{server.url}{path} did not answer: {unanswered}") from None
    except Declined as declined:
        sentence = f"{server.url}{path} refuses: {declined}"
        if declined.status in STRANGERS or declined.status < 400:
            raise SamplerRefused(sentence) from None
        raise RequestRefused(sentence) from None


# --- what a choice holds -------------------------------------------------------------------------


def _is_finished(address: Address, choice: dict[str, Any]) -> bool:
    """True where the model itself ended its answer, False where it was cut at the limit.

    Raises Unusable for any other end: filtered, broken off or a call of a tool, it is not what the
    model answers to the prompt, neither whole nor up to the limit.
    """
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        shown = repr(reason[:SHOWN]) if isinstance(reason, str) else "no text"
        raise Unusable(
            f"{address.url} ended the answer for the finish_reason {shown}, allowed are 'stop' and "
            "'length'"
        )
    return bool(reason == "stop")


def _drawn(address: Address, drawn: list[Any], drawing: Drawing) -> list[int]:
    """Raises Unusable for what cannot be the tokens of an answer."""
    known = address.vocabulary or len(address.tokenizer)
    limit = drawing.max_new_tokens
    if not all(type(token) is int and 0 <= token < known for token in drawn):
        raise Unusable(
            f"{address.url} answered with token ids that its model does not have, allowed are "
            f"0 to {known - 1}"
        )
    if not 1 <= len(drawn) <= limit:
        raise Unusable(f"{address.url} answered with {len(drawn)} tokens, allowed are 1 to {limit}")
    return drawn


def _logprobs(address: Address, choice: dict[str, Any], count: int) -> list[float] | None:
    """One for each token, or None where the address gives none at all.

    Raises Unusable for anything else: what cannot be read must not pass for what is not there.
    """
    given = choice.get("logprobs") or {}
    found = given.get("token_logprobs") or [] if isinstance(given, dict) else None
    if found == []:
        return None
    if not isinstance(found, list) or len(found) != count or not all(map(_is_number, found)):
        raise Unusable(
            f"{address.url} answered with log-probabilities that are not one number for each of "
            f"{count} tokens"
        )
    return [float(x) for x in found]


def _is_number(found: Any) -> bool:
    """Whether it is a number that a float can hold, and neither infinite nor NaN."""
    return type(found) in (int, float) and abs(found) <= sys.float_info.max
