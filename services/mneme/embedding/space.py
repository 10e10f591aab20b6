"""The deployment's vector space: which one is recorded, and from which cosine two texts are alike in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mneme.embedding.provider import Model
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

_FOLDER = Path(__file__).parent / "calibration"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Cosines that mean something in one space."""

    related: float
    """From here two texts are related enough to be offered as knowledge."""
    same_question: float
    """From here two questions may have the same answer."""


@dataclass(frozen=True, slots=True)
class RecordedSpace:
    """The space that the vectors of this deployment were made in."""

    provider: str
    model: str
    dimensions: int

    @property
    def space_id(self) -> str:
        """Id, `<model>@<dimensions>`."""
        return f"{self.model}@{self.dimensions}"


def calibration(space_id: str, own: Path | None = None) -> Calibration | None:
    """Returns the thresholds of a space; None for one that nobody calibrated.

    Args:
        space_id: Id of the space.
        own: The operator's folder, which comes before the package's files; None for none.
    """
    for folder in (own, _FOLDER) if own else (_FOLDER,):
        for file in sorted(folder.glob("*.json")):
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["space_id"] == space_id:
                return Calibration(content["related_threshold"], content["same_question_threshold"])
    return None


def choose(recorded: RecordedSpace, configured: Sequence[Model]) -> Model:
    """Returns the configured model whose space is the recorded one.

    Args:
        recorded: What the database says.
        configured: The models of the settings: of the active space, and of the next one where there is one.

    Raises:
        Error: REASON_SPACE_MISMATCH, with the spaces and what to do.
    """
    for model in configured:
        if recorded == of(model):
            return model
    first = configured[0]
    named = " and ".join(f"'{model.space_id}' of {model.provider}" for model in configured)
    message = (
        f"this deployment's vectors are '{recorded.space_id}' of {recorded.provider}, the settings name {named}: "
        "set the models.embedding_* settings back, or run `mneme reembed`"
    )
    raise Error(
        errors_pb2.REASON_SPACE_MISMATCH,
        message,
        metadata={
            "recorded": recorded.space_id,
            "recorded_provider": recorded.provider,
            "configured": first.space_id,
            "configured_provider": first.provider,
        },
    )


def of(model: Model) -> RecordedSpace:
    """Returns the space of a model as it is recorded."""
    return RecordedSpace(model.provider, model.name, model.dimensions)


def unknown(wanted: str, active: Model, others: Sequence[Model]) -> Error:
    """Returns the error for a request that names a space which is not served here."""
    beside = "".join(f", beside it '{model.space_id}'" for model in others)
    return Error(
        errors_pb2.REASON_SPACE_MISMATCH,
        f"this deployment's vectors are '{active.space_id}'{beside}; the request names '{wanted}'",
        metadata={"recorded": active.space_id, "configured": wanted},
    )


def not_everywhere(wanted: str, processes: int, without: int) -> Error:
    """Returns the error for a switch to a space that some running processes do not have in their settings."""
    return Error(
        errors_pb2.REASON_SPACE_MISMATCH,
        f"{without} of {processes} running embedding processes do not serve '{wanted}': set models.next_embedding_* "
        "for all of them and restart those without",
        metadata={"configured": wanted, "processes": str(processes), "without": str(without)},
    )
