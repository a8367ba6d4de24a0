"""Answers from an address: by token ids there and back where it can, by chat messages otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from reward.data import text_tokens
from reward.openai_client import CHAT, COMPLETIONS, Declined, Server, Unanswered, message_text
from reward.preferences import Message
from rlhf_loop.policy import Answer, Drawing, prompt_tokens
from rlhf_loop.serving.address import SHOWN, Address, RequestRefused, SamplerRefused, Unusable
from rlhf_loop.serving.choices import drawn_tokens, is_finished, token_logprobs
from rlhf_loop.serving.known import known

API_KEY_VARIABLE = "SAMPLER_API_KEY"
ATTEMPTS = 3
STRANGERS = (401, 403)  # who asks is refused, whatever is asked

Ask = Callable[[Server, Address, Sequence[Message], int, Drawing], Answer]


def answers_from(
    address: Address,
    prompts: Sequence[Sequence[Message]],
    seeds: Sequence[int],
    drawing: Drawing,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """One answer to each prompt by its own seed, in the prompts' order.

    The first time that a temperature is above 0, one is asked for twice: an address that does not
    keep seeds is said to. Raises SamplerRefused where it does not answer, or refuses a prompt.
    """
    of_address = known(address.url)
    with _server(address) as server, ThreadPoolExecutor(address.parallel_requests) as pool:
        with _named(prompts[0]):
            way = _way_of_asking(server, address, prompts[0], seeds[0], drawing)

        def ask(of: tuple[Sequence[Message], int]) -> Answer:
            prompt, seed = of
            with _named(prompt):
                return way(server, address, prompt, seed, drawing)

        asked = [*zip(prompts, seeds, strict=True)]
        again = asked[:1] if drawing.temperature > 0 and not of_address.are_seeds_seen else []
        answers = []
        for answer in pool.map(ask, asked + again):
            answers.append(answer)
            progress(min(len(answers), len(prompts)))
    if again:
        of_address.are_seeds_seen = True
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
        if "tokens" not in known(address.url).mentioned:
            try:
                _ask_by_messages(server, address, prompt, seed, short)
            except RequestRefused as by_messages:
                raise Unusable(f"{by_messages}; asked by token ids: {by_tokens}") from None
        known(address.url).say_once(
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
    drawn, finished = (
        drawn_tokens(address, choice["token_ids"], drawing),
        is_finished(address, choice),
    )
    if finished and drawn[-1] not in address.stops:
        raise Unusable(
            f"{address.url} ended an answer with the tokens {drawn[-3:]}; answers end with one of "
            f"{list(address.stops)}"
        )
    found = token_logprobs(address, choice, len(drawn))
    if found is None:
        known(address.url).say_once("logprobs", f"{address.url} gives no log-probabilities.")
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
    finished = is_finished(address, choice)
    try:
        text = message_text(choice) or ""
    except ValueError as error:
        raise Unusable(f"{address.url} answered {error}") from None
    tokens = text_tokens(address.tokenizer, text)
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
