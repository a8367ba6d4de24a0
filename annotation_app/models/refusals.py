"""What the domain refuses; ``access.RefusalMiddleware`` shows the sentence on a page."""


class Refusal(Exception):
    """A request that the rules do not allow; its text is a sentence for the person who asked."""

    status = 409


class WrongState(Refusal):
    """Someone else has moved the row on."""


class BatchClosed(Refusal):
    """The batch takes no annotations."""


class LeaseLost(Refusal):
    """The comparison is no longer reserved for this annotator."""


class NotAssigned(Refusal):
    """The row belongs to another person."""

    status = 403


class MayNotWork(Refusal):
    """The rules give this person no work in this batch now."""

    status = 403


class NothingToJudge(Refusal):
    """A turn was stopped before there were two answers."""


class SamplerUnavailable(Refusal):
    """The sampler did not give a usable answer; ``why`` is that alone, without advice."""

    status = 503

    def __init__(self, sentence: str, why: str = "") -> None:
        super().__init__(sentence)
        self.why = why or sentence


class ScorerUnavailable(Refusal):
    """The reward server gave no scores."""

    status = 503


class NothingReleased(Refusal):
    """There is no chat model to sample from."""

    status = 503


class CannotStart(Refusal):
    """Work that lacks an input."""


class NoAttempt(Refusal):
    """A gate of a qualification that this person cannot begin, or not finish, now."""


class TimeOver(Refusal):
    """The attempt has ended."""
