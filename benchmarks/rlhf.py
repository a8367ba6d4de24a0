"""How fast a round's parts run here and with what its users would write instead.

    python -m benchmarks.rlhf best-of --out out.json

``best-of``: sixteen answers to each of a few prompts by ``rlhf_loop.drawing.generate_answers``,
beside transformers' ``generate(num_return_sequences=16)``, one prompt after the other and all
prompts in one padded batch, and its ``generate_batch`` (continuous batching). The same weights (a
Llama of six layers with random weights and the demo's tokenizer), the same prompts, the same number
of tokens for every answer; drawn from the full softmax (no top-k). The prompts are those of the
demo world, and those of HH-RLHF in ``demo/data`` up to 400 tokens; ``natural ends`` lets the demo's
chat model end its answers itself, so there everybody draws other ones and the rate counts tokens.

Everybody runs in this process, in turns; the figures are medians over the turns, the ratios are
medians of the ratios within a turn. ``--cpu-time`` counts the process's own seconds, which with
``--threads 1`` can be trusted on a machine that others use too. Memory is what a process of its own
needs beyond the loaded model: its largest resident set less the one before drawing. With ``--device
cuda`` times are taken once the GPU has ended its work, and memory is what torch allocates there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, process_time
from timeit import repeat
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from demo import world
from reward.model import load_tokenizer
from reward.preferences import Message
from reward.prefix_tree import prefix_tree
from rlhf_loop.drawing import generate_answers
from rlhf_loop.policy import (
    Drawing,
    left_pad,
    load_chat_model,
    pad_token,
    prompt_tokens,
    row_seed,
    save_chat_model,
)

ROOT = Path(__file__).resolve().parents[1]
CHAT_MODEL = ROOT / "demo" / "checkpoints" / "starter-a"
LONGEST_PROMPT = 400  # tokens
ENGINES = ("Tandem", "generate by prompt", "generate in one batch", "generate_batch")


class Case(NamedTuple):
    """What is asked of everybody."""

    name: str
    prompts: list[list[int]]
    new_tokens: int
    natural_ends: bool


def start_weights(folder: Path, arguments: argparse.Namespace) -> None:
    """A Llama that has learnt nothing, with the demo's tokenizer."""
    tokenizer = load_tokenizer(CHAT_MODEL)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden * 43 // 16,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    save_chat_model(LlamaForCausalLM(config), tokenizer, folder)


def demo_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """Prompts of the demo world, spread over all of them."""
    every = world.prompts("test")
    step = len(every) // count
    return [prompt_tokens(tokenizer, [Message("user", p.text)]) for p in every[::step][:count]]


def hh_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """The dialogues of HH-RLHF before their last answer, as they stand in the file."""
    found = []
    with gzip.open(ROOT / "demo" / "data" / "hh-harmless-base.jsonl.gz", "rt") as lines:
        for line in lines:
            turns = json.loads(line)["chosen"].split("\n\nHuman: ")[1:]
            messages = []
            for turn in turns:
                asked, _, answered = turn.partition("\n\nAssistant:")
                messages += [Message("user", asked.strip()), Message("assistant", answered.strip())]
            tokens = prompt_tokens(tokenizer, messages[:-1])
            if len(tokens) <= LONGEST_PROMPT:
                found.append(tokens)
            if len(found) == count:
                break
    return found


def cases_of(tokenizer: Any, arguments: argparse.Namespace) -> list[Case]:
    demo, hh = (prompts(tokenizer, arguments.prompts) for prompts in (demo_prompts, hh_prompts))
    every = [
        Case(f"{name}, {new} new tokens", prompts, new, natural_ends=False)
        for name, prompts in (("demo", demo), ("HH-RLHF", hh))
        for new in (32, 128)
    ]
    return [*every, Case("demo, natural ends", demo, 128, natural_ends=True)]


# --- who draws -----------------------------------------------------------------------------------


def never_ending(model: Any, tokenizer: Any) -> None:
    """Take the end tokens away, so that all answers have the same length."""
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None


def settings(model: Any, case: Case, arguments: argparse.Namespace, **more: Any) -> Any:
    """transformers' settings for the same: from the full softmax."""
    named: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=case.new_tokens,
        num_return_sequences=arguments.samples, eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id, **more,
    )  # fmt: skip
    return named


def tandem(model: Any, tokenizer: Any, case: Case, arguments: argparse.Namespace) -> int:
    asked = [prompt for prompt in case.prompts for _ in range(arguments.samples)]
    seeds = [row_seed(0, i) for i in range(len(asked))]
    answers = generate_answers(
        model, tokenizer, asked, seeds, Drawing(case.new_tokens), arguments.rows
    )
    return sum(len(answer.tokens) for answer in answers)


@torch.inference_mode()
def by_prompt(model: Any, tokenizer: Any, case: Case, arguments: argparse.Namespace) -> int:
    return sum(_generate(model, tokenizer, [prompt], case, arguments) for prompt in case.prompts)


@torch.inference_mode()
def in_one_batch(model: Any, tokenizer: Any, case: Case, arguments: argparse.Namespace) -> int:
    return _generate(model, tokenizer, case.prompts, case, arguments)


def _generate(
    model: Any, tokenizer: Any, prompts: list[list[int]], case: Case, arguments: argparse.Namespace
) -> int:
    tokens, mask = left_pad(prompts, pad_token(tokenizer), model.device)
    found = model.generate(
        tokens, attention_mask=mask.long(), generation_config=settings(model, case, arguments)
    )[:, tokens.shape[1] :]
    end = model.generation_config.eos_token_id
    if end is None:
        return int(found.numel())
    return int(((found == end).cumsum(dim=1) - (found == end).int() == 0).sum())


def batch(model: Any, tokenizer: Any, case: Case, arguments: argparse.Namespace) -> int:
    found = model.generate_batch(
        inputs=case.prompts, generation_config=settings(model, case, arguments)
    )
    return sum(len(output.generated_tokens) for output in found.values())


DRAWS: dict[str, Callable[[Any, Any, Case, argparse.Namespace], int]] = dict(
    zip(ENGINES, (tandem, by_prompt, in_one_batch, batch), strict=True)
)


# --- turns ---------------------------------------------------------------------------------------


def loaded(arguments: argparse.Namespace, case: Case, start: Path) -> tuple[Any, Any]:
    if case.natural_ends:
        return load_chat_model(CHAT_MODEL, arguments.device)
    model, tokenizer = load_chat_model(start, arguments.device)
    never_ending(model, tokenizer)
    return model, tokenizer


def clock_of(arguments: argparse.Namespace) -> Callable[[], float]:
    """The clock of all times: on a GPU, of what it has ended."""
    clock = process_time if arguments.cpu_time else monotonic
    if arguments.device == "cpu":
        return clock

    def ended() -> float:
        torch.cuda.synchronize()
        return clock()

    return ended


def take_turns(arguments: argparse.Namespace, case: Case, start: Path) -> dict[str, Any]:
    """Everybody once in each turn; medians, and how Tandem compares within each turn."""
    model, tokenizer = loaded(arguments, case, start)
    short = case._replace(prompts=case.prompts[:1], new_tokens=2)
    turns: dict[str, list[tuple[float, int]]] = {name: [] for name in arguments.engines}
    clock = clock_of(arguments)
    for name in turns:
        DRAWS[name](model, tokenizer, short, arguments)  # whatever is done once is done
    for turn in range(arguments.turns):
        for name, found in turns.items():
            if name == "generate_batch" and turn >= arguments.batch_turns:
                continue
            started = clock()
            tokens = DRAWS[name](model, tokenizer, case, arguments)
            found.append((clock() - started, tokens))
            print(f"  turn {turn + 1}, {name}: {found[-1]}", flush=True)
    return {
        name: {
            "seconds": statistics.median(seconds for seconds, _ in found),
            "tokens_per_second": statistics.median(tokens / s for s, tokens in found),
            "tandem_is_faster": statistics.median(
                (mine / mine_s) / (theirs / theirs_s)
                for (mine_s, mine), (theirs_s, theirs) in zip(turns["Tandem"], found, strict=False)
            ),
            "turns": found,
        }
        for name, found in turns.items()
    }


def memory(arguments: argparse.Namespace, case: Case, start: Path, name: str) -> float:
    """MiB that a process of its own needs to draw, beyond what it has once the model is loaded."""
    words = ["--start", start, "--only", name, "--case", case.name, "--out", os.devnull]
    words += ["--prompts", arguments.prompts, "--samples", arguments.samples]
    words += ["--rows", arguments.rows, "--threads", arguments.threads]
    words += ["--device", arguments.device]
    command = [sys.executable, "-m", "benchmarks.rlhf", "best-of", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def needs(arguments: argparse.Namespace) -> float:
    """``memory`` in the process of its own."""
    tokenizer = load_tokenizer(CHAT_MODEL)
    (case,) = (case for case in cases_of(tokenizer, arguments) if case.name == arguments.case)
    model, tokenizer = loaded(arguments, case, arguments.start)
    DRAWS[arguments.only](
        model, tokenizer, case._replace(prompts=[[5] * 8], new_tokens=2), arguments
    )
    if arguments.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        DRAWS[arguments.only](model, tokenizer, case, arguments)
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = _resident("VmRSS")
    DRAWS[arguments.only](model, tokenizer, case, arguments)
    return _resident("VmHWM") - before


def _resident(what: str) -> float:
    """MiB of the process's memory that are resident now (VmRSS) or were at the peak (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kibibytes,) = re.findall(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kibibytes) / 1024


def bound(arguments: argparse.Namespace, case: Case, start: Path) -> dict[str, float]:
    """The time of nothing but the matrix products of each distinct token.

    2 operations a weight and token, the head's only where a token is drawn, and 4 a channel, layer
    and pair of a token with one it attends to, at the rate of a product of the model's own shape
    with as many rows as there are answers, measured now.
    """
    model, _ = loaded(arguments, case, start)
    config = model.config
    tree = prefix_tree(case.prompts, shortest=1)
    answers, new = len(case.prompts) * arguments.samples, case.new_tokens
    drawn = answers * (new - 1)  # the last one does not go through the model
    attended = float(sum(position + 1 for position in tree.positions))
    for prompt in case.prompts:
        attended += arguments.samples * sum(len(prompt) + i + 1 for i in range(new - 1))
    weights = sum(p.numel() for p in model.model.layers.parameters())
    head = config.hidden_size * config.vocab_size
    operations = 2 * weights * (len(tree.tokens) + drawn) + 2 * head * (answers + drawn)
    operations += 4 * config.hidden_size * config.num_hidden_layers * attended
    a = torch.randn(answers, config.hidden_size, device=arguments.device)
    b = torch.randn(config.hidden_size, config.intermediate_size, device=arguments.device)
    seconds = min(repeat(lambda: a @ b, number=50, repeat=9, timer=clock_of(arguments))) / 50
    rate = 2 * a.shape[0] * b.numel() / seconds
    return {
        "prompt_tokens": sum(map(len, case.prompts)),
        "distinct_prompt_tokens": len(tree.tokens),
        "operations": operations,
        "operations_per_second": rate,
        "seconds": operations / rate,
    }


def table(case: Case, found: dict[str, Any]) -> str:
    """A case for reading."""
    lines = [f"{case.name}:"]
    for name, figures in found["engines"].items():
        used = found["memory_mib"].get(name)
        lines.append(
            f"  {name:22}{figures['seconds']:8.2f} s{figures['tokens_per_second']:9.0f} tokens/s"
            + (f"{used:8.0f} MiB" if used is not None else "")
            + f"   Tandem is {figures['tandem_is_faster']:.2f} times as fast"
        )
    if "bound" in found:
        share = found["bound"]["seconds"] / found["engines"]["Tandem"]["seconds"]
        lines.append(
            f"  bound {found['bound']['seconds']:.2f} s, reached {share:.0%}; "
            f"{found['bound']['operations_per_second'] / 1e9:.0f} GFLOP/s"
        )
    return "\n".join(lines)


def best_of(arguments: argparse.Namespace) -> None:
    """All cases; prints their tables, writes the JSON file."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="rlhf-benchmark-") as temporary:
        start = Path(temporary) / "start"
        start_weights(start, arguments)
        for case in cases_of(load_tokenizer(CHAT_MODEL), arguments):
            if arguments.case and arguments.case not in case.name:
                continue
            found: dict[str, Any] = {"engines": take_turns(arguments, case, start)}
            if not case.natural_ends:
                found["bound"] = bound(arguments, case, start)
            found["memory_mib"] = {
                name: memory(arguments, case, start, name)
                for name in (arguments.engines if arguments.memory else ())
            }
            print(table(case, found), flush=True)
            results[case.name] = found
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("part", choices=["best-of"])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16, help="answers to each prompt")
    parser.add_argument("--rows", type=int, default=256, help="answers drawn side by side here")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch-turns", type=int, default=1, help="turns of generate_batch")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--case", default="", help="only cases with this in their name")
    parser.add_argument("--cpu-time", action="store_true", help="the process's own seconds")
    parser.add_argument("--memory", action="store_true", help="measure memory too")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.cpu_time and arguments.device != "cpu":
        parser.error("--cpu-time says nothing of a GPU: leave it out with --device cuda")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(needs(arguments))
    else:
        best_of(arguments)


if __name__ == "__main__":
    main()
