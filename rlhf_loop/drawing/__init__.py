"""Answers drawn from a policy, many side by side.

Answers to one prompt share its prefill and its keys and values; prompts that begin alike share that
too. Rows that have stopped leave at once, and others take their places. Every row draws with the
random numbers of its own seed, so an answer does not depend on which rows it was drawn with: what
neighbours change is the rounding of the model's logits (about 1e-6 of their size in float32), and
so a draw only where the random number lies that close to the edge between two tokens.

Attention does not go through transformers' cache. A model is told to attend through ``passes``
while it draws, which keeps a prompt's keys once, whatever the number of answers (``blocks``).
Whether a model can do that is found out by comparing its logits with its own plain ones
(``shared``); one that cannot draws row by row with transformers' cache (``apart``).

Left out: transformers' continuous batching, far slower on a CPU (EXPERIMENTS.md); keys shared by
prompts that only begin alike, since sixteen answers to a prompt have saved nearly all there is.
"""

from rlhf_loop.drawing.answers import generate_answers

__all__ = ["generate_answers"]
