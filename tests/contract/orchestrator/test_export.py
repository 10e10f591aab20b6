"""ExportUser: everything of one user and nothing of another, in pieces that vouch for each other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mneme.archival.v1 import archival_pb2
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.core_memory.v1 import core_memory_pb2
from mneme.core_memory.v1.core_memory_pb2_grpc import CoreMemoryServiceStub
from mneme.errors.v1 import errors_pb2
from mneme.orchestrator.v1 import orchestrator_pb2 as pb
from mneme.orchestrator.v1.orchestrator_pb2_grpc import AgentServiceStub
from mneme.runtime import exports
from tests.contract.orchestrator.scripted import ScriptedModel, Talk, calls, open_talk, refused, request_id, says
from tests.support.suite import Suite


async def _exported(suite: Suite, user: str, *, as_user: str = "", after_piece: int = 0) -> list[pb.ExportPiece]:
    stub = suite.stub(AgentServiceStub, user=as_user)
    request = pb.ExportUserRequest(user_id=user, after_piece=after_piece)
    return [response.piece async for response in stub.ExportUser(request)]


def _records(pieces: list[pb.ExportPiece], kind: str) -> list[dict[str, Any]]:
    return [json.loads(piece.record_json) for piece in pieces if piece.kind == kind]


async def _live(model: ScriptedModel, talk: Talk, word: str) -> None:
    model.answers = [
        calls(
            ("core_memory_append", {"label": "human", "content": f"Likes {word}.", "request_heartbeat": True}),
            ("core_memory_append", {"label": "persona", "content": f"{word} amuses me.", "request_heartbeat": True}),
        ),
        says(f"noted: {word}"),
    ]
    await talk.send(f"Remember {word}!")
    schedule = pb.Schedule()
    schedule.at.FromJsonString("2099-01-01T00:00:00Z")
    await talk.agents.ScheduleEvent(
        pb.ScheduleEventRequest(
            request_id=request_id(), conversation_id=talk.conversation_id, text=f"ask for {word}", schedule=schedule
        )
    )


async def _store(talk: Talk, text: str) -> None:
    """A passage about the user, corrected once."""
    archive = talk.suite.stub(ArchivalServiceStub)
    inserted = await archive.InsertPassage(
        archival_pb2.InsertPassageRequest(
            request_id=request_id(),
            owner=archival_pb2.PassageOwner(agent_id=talk.agent_id),
            passage=archival_pb2.Passage(text=text, user_id=talk.user),
        )
    )
    await archive.UpdatePassage(
        archival_pb2.UpdatePassageRequest(
            request_id=request_id(),
            passage_id=inserted.passage.passage_id,
            passage=archival_pb2.Passage(text=f"{text}, pruned"),
        )
    )


async def _conversation(talk: Talk, user: str) -> Talk:
    opened = await talk.suite.stub(AgentServiceStub, user=user).CreateConversation(
        pb.CreateConversationRequest(request_id=request_id(), agent_id=talk.agent_id)
    )
    return Talk(talk.suite, talk.agent_id, opened.conversation.conversation_id, user)


async def test_a_user_gets_everything_of_the_own_and_nothing_of_others(model: ScriptedModel, talk: Talk) -> None:
    ann, bob = await _conversation(talk, "ann"), await _conversation(talk, "bob")
    own = await open_talk(talk.suite, user="ann")
    await _store(ann, "a fig tree")
    await _store(bob, "an olive tree")
    await _live(model, ann, "figs")
    await _live(model, bob, "olives")
    await own.send("to my own agent")

    pieces = await _exported(talk.suite, "ann", as_user="ann")

    everything = b"\n".join(piece.record_json for piece in pieces).decode()
    assert "olives" not in everything
    assert [one["agent_id"] for one in _records(pieces, "agent")] == [own.agent_id]
    assert {one["conversation_id"] for one in _records(pieces, "conversation")} == {
        ann.conversation_id,
        own.conversation_id,
    }
    assert [one["text"] for one in _records(pieces, "event")] == ["Remember figs!", "to my own agent"]
    assert [one["text"] for one in _records(pieces, "timer")] == ["ask for figs"]
    assert {"Likes figs."} <= {one.get("value") for one in _records(pieces, "block")}
    assert "Likes figs." in {one.get("value") for one in _records(pieces, "block_version")}
    assert [one["text"] for one in _records(pieces, "passage")] == ["a fig tree, pruned"]
    assert [one["passage"]["text"] for one in _records(pieces, "passage_version")] == ["a fig tree"]
    said = [one.get("text") for one in _records(pieces, "message")]
    assert "Remember figs!" in said
    assert "to my own agent" in said
    counted = json.loads(pieces[-1].record_json)["counts"]
    assert counted == {kind: len(_records(pieces, kind)) for kind in counted}
    assert pieces[-1].kind == "end"


async def test_pieces_vouch_for_each_other_and_a_cut_export_goes_on(model: ScriptedModel, talk: Talk) -> None:
    ann = await _conversation(talk, "ann")
    for number in range(3):
        await ann.send(f"message {number}")
    pieces = await _exported(talk.suite, "ann")

    digest = ""
    for number, piece in enumerate(pieces, 1):
        assert piece.number == number
        digest = hashlib.sha256(f"{digest}{piece.kind}\n".encode() + piece.record_json).hexdigest()
        assert piece.chain_sha256 == digest
    assert await _exported(talk.suite, "ann", after_piece=4) == pieces[4:]


async def test_more_than_a_page_is_exported_in_order(model: ScriptedModel, talk: Talk, monkeypatch: Any) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 2)
    ann = await _conversation(talk, "ann")
    for number in range(5):
        await ann.send(f"message {number}")
    pieces = await _exported(talk.suite, "ann")

    assert [one["text"] for one in _records(pieces, "event")] == [f"message {number}" for number in range(5)]
    said = [int(one["sequence"]) for one in _records(pieces, "message")]
    assert said == list(range(1, 16))


async def test_only_the_user_and_operators_may_export(talk: Talk) -> None:
    stub = talk.suite.stub(AgentServiceStub, user="bob")
    error = await refused(stub.ExportUser(pb.ExportUserRequest(user_id="ann")).read())
    assert error.reason == errors_pb2.REASON_USER_NOT_ALLOWED

    memory = talk.suite.stub(CoreMemoryServiceStub, user="ann")
    error = await refused(memory.ExportData(core_memory_pb2.ExportDataRequest()).read())
    assert error.reason == errors_pb2.REASON_CALLER_NOT_ALLOWED


async def test_nobody_known_gives_an_empty_export(scripted_suite: Suite) -> None:
    pieces = await _exported(scripted_suite, "nobody")

    assert [piece.kind for piece in pieces] == ["end"]
