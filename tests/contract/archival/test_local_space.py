"""Archival beside the real embedding service with its local model, in one process."""

from __future__ import annotations

import pytest

from mneme.archival.v1 import archival_pb2 as pb
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import AGENT, new_id, of_agent
from tests.support.suite import Serve

FACTS = [
    "Ann is allergic to nuts",
    "The weekly meeting takes place on Friday",
    "Bob drives a red car",
    "小明对花生过敏",
    "每周会议在星期五举行",
    "他最喜欢的饮料是绿茶",
]


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("What is Ann allergic to?", FACTS[0]),
        ("When is the weekly meeting?", FACTS[1]),
        ("Which vehicle does Bob own?", FACTS[2]),
        ("谁对花生过敏？", FACTS[3]),
        ("会议在什么时候？", FACTS[4]),
        ("他喜欢喝什么？", FACTS[5]),
    ],
)
async def test_a_question_finds_its_fact(serve: Serve, question: str, fact: str) -> None:
    suite = await serve("archival", "embedding")
    stub = suite.stub(ArchivalServiceStub)
    items = [pb.PassageItem(passage=pb.Passage(text=text)) for text in FACTS]
    batch = pb.InsertPassagesRequest(request_id=new_id(), owner=of_agent(), items=items)
    assert (await stub.InsertPassages(batch)).inserted_count == len(FACTS)
    request = pb.SearchPassagesRequest(scope=pb.SearchScope(agent_id=AGENT), query=question, limit=3)
    response = await stub.SearchPassages(request)
    assert not response.degraded
    assert response.results[0].passage.text == fact
    assert response.results[0].passage.index_state == common_pb2.INDEX_STATE_INDEXED
