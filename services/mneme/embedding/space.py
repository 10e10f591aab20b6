"""The deployment's vector space: which one is recorded, and from which cosine two texts are alike in it."""

from __future__ import annotations

import json
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


def calibration(space_id: str, folder: Path = _FOLDER) -> Calibration | None:
    """Returns the thresholds of a space; None for one that nobody calibrated."""
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["space_id"] == space_id:
            return Calibration(content["related_threshold"], content["same_question_threshold"])
    return None


def check(recorded: RecordedSpace, configured: Model) -> None:
    """Returns when the settings name the recorded space.

    Raises:
        Error: REASON_SPACE_MISMATCH, with both spaces and what to do.
    """
    if recorded == RecordedSpace(configured.provider, configured.name, configured.dimensions):
        return
    message = (
        f"this deployment's vectors are '{recorded.space_id}' of {recorded.provider}, the settings name "
        f"'{configured.space_id}' of {configured.provider}: set the models.embedding_* settings back, or run "
        "`mneme reembed`"
    )
    raise Error(
        errors_pb2.REASON_SPACE_MISMATCH,
        message,
        metadata={
            "recorded": recorded.space_id,
            "recorded_provider": recorded.provider,
            "configured": configured.space_id,
            "configured_provider": configured.provider,
        },
    )
