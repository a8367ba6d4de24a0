"""The rows; a module per noun. Verbs on them are the only writers of state."""

from annotation_app.models.annotation import Annotation
from annotation_app.models.attempt import Attempt, AttemptAnswer, FurtherAttempt
from annotation_app.models.batch import Batch
from annotation_app.models.checkpoint import Checkpoint, PromptSet, Snapshot
from annotation_app.models.choices import (
    AttackVector,
    Criterion,
    KeyLayout,
    RiskCategory,
    Side,
    Split,
    Strength,
)
from annotation_app.models.comparison import Comparison
from annotation_app.models.demonstration import Demonstration, DemonstrationSet
from annotation_app.models.dialogue import Dialogue, DialogueRoot, Prompt, Response
from annotation_app.models.grade import Grade
from annotation_app.models.guideline import Guideline
from annotation_app.models.organisation import Organisation
from annotation_app.models.person import Person
from annotation_app.models.promotion import Promotion
from annotation_app.models.qualification import Gate, GateQuestion, Qualification
from annotation_app.models.reference import Reference
from annotation_app.models.release import Release, Variant
from annotation_app.models.remark import Reason, Remark
from annotation_app.models.resampled import Resampled
from annotation_app.models.review import Review
from annotation_app.models.round import Round
from annotation_app.models.run import Run, RunInput
from annotation_app.models.running_turn import RunningTurn
from annotation_app.models.seat import Seat
from annotation_app.models.sign_in import SignIn
from annotation_app.models.skill import Skill

__all__ = [
    "Annotation",
    "AttackVector",
    "Attempt",
    "AttemptAnswer",
    "Batch",
    "Checkpoint",
    "Comparison",
    "Criterion",
    "Demonstration",
    "DemonstrationSet",
    "Dialogue",
    "DialogueRoot",
    "FurtherAttempt",
    "Gate",
    "GateQuestion",
    "Grade",
    "Guideline",
    "KeyLayout",
    "Organisation",
    "Person",
    "Promotion",
    "Prompt",
    "PromptSet",
    "Qualification",
    "Reason",
    "Reference",
    "Release",
    "Remark",
    "Resampled",
    "Response",
    "Review",
    "RiskCategory",
    "Round",
    "Run",
    "RunInput",
    "RunningTurn",
    "Seat",
    "Side",
    "SignIn",
    "Skill",
    "Snapshot",
    "Split",
    "Strength",
    "Variant",
]
