"""The recorded space decides, and thresholds exist only where someone measured them."""

from __future__ import annotations

import pytest

from mneme.embedding.provider import Model
from mneme.embedding.space import Calibration, RecordedSpace, calibration, check
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

TITAN = Model("bedrock", "amazon.titan-embed-text-v2:0", 1024, 8192, 1)


def test_the_recorded_space_passes() -> None:
    check(RecordedSpace("bedrock", "amazon.titan-embed-text-v2:0", 1024), TITAN)


@pytest.mark.parametrize(
    "recorded",
    [
        RecordedSpace("wordllama", "wordllama", 256),
        RecordedSpace("bedrock", "amazon.titan-embed-text-v2:0", 512),
        RecordedSpace("openai", "amazon.titan-embed-text-v2:0", 1024),
    ],
)
def test_another_space_is_refused_with_both_names_and_a_way_out(recorded: RecordedSpace) -> None:
    with pytest.raises(Error, match="mneme reembed") as caught:
        check(recorded, TITAN)
    assert caught.value.reason == errors_pb2.REASON_SPACE_MISMATCH
    assert caught.value.metadata["recorded"] == recorded.space_id
    assert caught.value.metadata["configured"] == TITAN.space_id
    assert recorded.space_id in caught.value.message


def test_titan_is_calibrated_and_others_are_not() -> None:
    assert calibration(TITAN.space_id) == Calibration(related=0.7, same_question=0.85)
    assert calibration("wordllama@256") is None
