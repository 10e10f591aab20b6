"""The recorded space decides, and thresholds exist only where someone measured them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mneme.embedding.provider import Model
from mneme.embedding.space import Calibration, RecordedSpace, calibration, choose, of
from mneme.errors.v1 import errors_pb2
from mneme.runtime.errors import Error

TITAN = Model("bedrock", "amazon.titan-embed-text-v2:0", 1024, 8192, 1)


NEXT = Model("openai", "bge-m3", 1024, 8192, 64)


def test_the_recorded_space_decides_which_of_the_configured_ones_is_active() -> None:
    assert choose(RecordedSpace("bedrock", "amazon.titan-embed-text-v2:0", 1024), [TITAN]) is TITAN
    assert choose(of(TITAN), [TITAN, NEXT]) is TITAN
    assert choose(of(NEXT), [TITAN, NEXT]) is NEXT


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
        choose(recorded, [TITAN, NEXT])
    assert caught.value.reason == errors_pb2.REASON_SPACE_MISMATCH
    assert caught.value.metadata["recorded"] == recorded.space_id
    assert caught.value.metadata["configured"] == TITAN.space_id
    assert recorded.space_id in caught.value.message


def test_titan_and_the_embedded_model_are_calibrated_and_others_are_not() -> None:
    assert calibration(TITAN.space_id) == Calibration(related=0.7, same_question=0.85)
    assert calibration("wordllama@256") == Calibration(related=0.62, same_question=0.54)
    assert calibration("unknown@256") is None


def test_the_operators_file_comes_before_the_packages(tmp_path: Path) -> None:
    own = {"space_id": TITAN.space_id, "related_threshold": 0.6, "same_question_threshold": 0.9, "measured": {}}
    (tmp_path / "own.json").write_text(json.dumps(own), encoding="utf-8")
    assert calibration(TITAN.space_id, tmp_path) == Calibration(related=0.6, same_question=0.9)
    assert calibration("wordllama@256", tmp_path) == calibration("wordllama@256")
