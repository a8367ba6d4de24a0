"""A policy at an address: an OpenAI-compatible server that draws in place of this process.

It is asked for everything that this process would give: exact tokens, their log-probabilities, a
seed for each answer. What it does not give is said in a sentence, once. docs/engines.md says which
server gives what, and how new weights reach it.
"""

from rlhf_loop.serving.address import Address, SamplerRefused
from rlhf_loop.serving.asking import answers_from
from rlhf_loop.serving.weights import serve

__all__ = ["Address", "SamplerRefused", "answers_from", "serve"]
