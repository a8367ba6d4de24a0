"""What this process remembers of the addresses that it asked."""

from __future__ import annotations

from dataclasses import dataclass, field

Said = dict[tuple[int, ...], float]  # prompt and answer up to a token → its log-probability


@dataclass
class Known:
    """What is known of one address."""

    handed: str | None = None  # the folder that it was last made to serve
    checked: str | None = None  # the folder whose weights it was last found to serve
    said: Said = field(default_factory=dict)  # of its probes, by the weights that it last served
    mentioned: set[str] = field(default_factory=set)  # about what a sentence was printed
    are_seeds_seen: bool = False  # whether it was seen if it keeps them

    def say_once(self, about: str, sentence: str) -> None:
        if about not in self.mentioned:
            self.mentioned.add(about)
            print(sentence, flush=True)


_known: dict[str, Known] = {}  # by address


def known(url: str) -> Known:
    return _known.setdefault(url, Known())
