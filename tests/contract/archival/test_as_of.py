"""The past: state at any instant equals what an independent replay of versions and audit gives."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mneme.archival.v1 import archival_pb2 as pb
from mneme.common.v1 import common_pb2
from tests.contract.archival.conftest import Archive, at, new_id, of_agent

WORDS = ("tea", "milk", "figs", "nuts")
STATED = [at(f"{year}-06-01T00:00:00Z") for year in (2019, 2020, 2021, 2999)]
_REFUSED = (
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
)

DELETED = common_pb2.MEMORY_CHANGE_KIND_DELETED


@dataclass(frozen=True)
class State:
    """A passage between two writes, as its versions tell."""

    passage: pb.Passage
    start: datetime
    end: datetime


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def instant(made: Timestamp) -> datetime:
    return made.ToDatetime(tzinfo=UTC)


class Story:
    """Random writes to one agent's archive, and what they should have left behind."""

    def __init__(self, archive: Archive, choices: random.Random) -> None:
        self.archive = archive
        self.choices = choices
        self.agent = f"agent-{new_id()}"
        self.ids: list[str] = []
        self.moments: list[datetime] = []
        self.known: list[dict[str, pb.Passage]] = []

    async def tell(self, steps: int) -> None:
        """Makes writes; after each notes the instant and all that is stored then."""
        for _ in range(steps):
            act = self.choices.choice([self.insert, self.insert, self.update, self.supersede, self.restore, self.undo])
            act = self.delete if self.ids and self.choices.random() < 0.1 else act
            try:
                await act()
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REFUSED:
                    raise
            self.moments.append(datetime.now(UTC))
            everything = pb.PassageFilter(include_quarantined=True, include_superseded=True)
            stored = [await self.archive.get(id_) for id_ in self.ids]
            assert {p.passage_id for p in await self.listed(everything)} <= set(self.ids)
            self.known.append({p.passage_id: p for p in stored})

    async def listed(self, wanted: pb.PassageFilter) -> list[pb.Passage]:
        return await self.archive.list_all(owner=of_agent(self.agent), filter=wanted)

    async def insert(self, **fields: Any) -> None:
        ends = self.choices.choice([None, None, None, *STATED])
        begins = self.choices.choice(
            [None, None, *[one for one in STATED if ends is None or instant(one) <= instant(ends)]]
        )
        response = await self.archive.insert(
            self.text(),
            owner=of_agent(self.agent),
            tags=self.choices.sample(WORDS, 1),
            quarantined=self.choices.random() < 0.1,
            valid_from=begins,
            valid_to=ends,
            **fields,
        )
        if not response.duplicate:
            self.ids.append(response.passage.passage_id)

    async def update(self) -> None:
        ways: list[dict[str, Any]] = [
            {"text": self.text()},
            {"tags": [self.choices.choice(WORDS)]},
            {"valid_to": self.choices.choice(STATED)},
        ]
        fields = self.choices.choice(ways)
        if self.ids:
            await self.archive.update(self.choices.choice(self.ids), **fields)

    async def supersede(self) -> None:
        if self.ids:
            replaced = self.choices.sample(self.ids, min(len(self.ids), self.choices.choice([1, 1, 2])))
            await self.insert(supersedes_passage_ids=replaced, supersede_reason="changed")

    async def restore(self) -> None:
        if self.ids:
            id_ = self.choices.choice(self.ids)
            version = self.choices.randint(1, (await self.archive.get(id_)).version)
            request = pb.RestorePassageVersionRequest(request_id=new_id(), passage_id=id_, version=version)
            await self.archive.stub.RestorePassageVersion(request)

    async def undo(self) -> None:
        if self.ids:
            request = pb.ReinstatePassageRequest(request_id=new_id(), passage_id=self.choices.choice(self.ids))
            await self.archive.stub.ReinstatePassage(request)

    async def delete(self) -> None:
        id_ = self.ids.pop(self.choices.randrange(len(self.ids)))
        await self.archive.delete(id_)
        # What is deleted is gone from every moment, by design.
        for known in self.known:
            known.pop(id_, None)

    def text(self) -> str:
        return " ".join(self.choices.sample(WORDS, self.choices.randint(1, 3)))

    async def replayed(self) -> list[State]:
        """Returns what was stored from when to when, by the versions, and held against the audit."""
        changes = await self.archive.changes(agent_id=self.agent, page_size=1000)
        gone = {change.resource_id for change in changes if change.kind == DELETED}
        states: list[State] = []
        for id_ in {change.resource_id for change in changes} - gone:
            request = pb.ListPassageVersionsRequest(passage_id=id_, page_size=500)
            versions = (await self.archive.stub.ListPassageVersions(request)).versions
            own = [change for change in changes if change.resource_id == id_]
            assert [change.new_version for change in own] == [one.version for one in reversed(versions)]
            for change, one in zip(own, reversed(versions), strict=True):
                assert change.create_time == one.start_time
                assert change.new_chars == len(one.passage.text)
                end = instant(one.end_time) if one.HasField("end_time") else datetime.max.replace(tzinfo=UTC)
                states.append(State(one.passage, instant(one.start_time), end))
        return states


def bare(passage: pb.Passage) -> pb.Passage:
    """Returns a passage without what tells how far it is indexed."""
    copy = pb.Passage()
    copy.CopyFrom(passage)
    copy.ClearField("index_state")
    copy.ClearField("index_error")
    return copy


def holds(passage: pb.Passage, wanted: pb.PassageFilter, known_at: datetime | None) -> bool:
    """The rules of a filter, in plain words."""
    if passage.quarantined and not wanted.include_quarantined:
        return False
    if wanted.all_tags and not set(wanted.all_tags) <= set(passage.tags):
        return False
    if wanted.HasField("as_of"):
        moment = instant(wanted.as_of)
        begins = instant(passage.valid_from if passage.HasField("valid_from") else passage.create_time)
    else:
        moment = known_at or datetime.now(UTC)
        begins = instant(passage.valid_from) if passage.HasField("valid_from") else moment
    if begins > moment:
        return False
    ended = passage.HasField("valid_to") and instant(passage.valid_to) <= moment
    return not ended or bool(wanted.include_superseded and passage.superseded_by)


async def check(archive: Archive, seed: int, steps: int) -> None:
    choices = random.Random(seed)
    story = Story(archive, choices)
    await story.tell(steps)
    states = await story.replayed()
    everything = pb.PassageFilter(include_quarantined=True, include_superseded=True)
    for moment, known in zip(story.moments, story.known, strict=True):
        replayed = {s.passage.passage_id: bare(s.passage) for s in states if s.start <= moment < s.end}
        assert replayed == {id_: bare(passage) for id_, passage in known.items()}
    edges = [state.start for state in states] + [state.start - timedelta(microseconds=1) for state in states]
    for moment in choices.sample(edges, min(len(edges), 6)) + choices.sample(story.moments, min(steps, 6)):
        then = [bare(s.passage) for s in states if s.start <= moment < s.end]
        for wanted in (
            everything,
            pb.PassageFilter(),
            pb.PassageFilter(include_superseded=True),
            pb.PassageFilter(all_tags=[choices.choice(WORDS)], as_of=choices.choice(STATED)),
            pb.PassageFilter(as_of=stamp(choices.choice(edges or story.moments))),
        ):
            wanted.recorded_as_of.CopyFrom(stamp(moment))
            expected = {p.passage_id: p for p in then if holds(p, wanted, moment)}
            assert {p.passage_id: bare(p) for p in await story.listed(wanted)} == expected
            word = choices.choice(WORDS)
            for mode in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_SEMANTIC):
                found = await archive.search(word, agent=story.agent, mode=mode, filter=wanted, limit=200)
                told = {r.passage.passage_id: bare(r.passage) for r in found.results}
                if mode == pb.SEARCH_MODE_LEXICAL:
                    assert told == {id_: p for id_, p in expected.items() if word in p.text}
                else:
                    assert told == expected
    now = {p.passage_id for p in await story.listed(pb.PassageFilter())}
    assert now == {p.passage_id for p in story.known[-1].values() if holds(p, pb.PassageFilter(), None)}


@given(seed=st.integers(0, 2**32))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_state_at_any_instant_equals_a_replay(archive: Archive, seed: int) -> None:
    await check(archive, seed, steps=12)


@pytest.mark.soak
async def test_long_stories_are_replayed_too(archive: Archive) -> None:
    first = int(os.environ.get("SOAK_SEED", "1"))
    for number in range(int(os.environ.get("SOAK_N", "20"))):
        await check(archive, first + number, steps=80)


async def test_a_replaced_text_is_found_in_the_past_only(archive: Archive) -> None:
    stored = (await archive.insert("the code is alpha")).passage
    before = stamp(datetime.now(UTC))
    await archive.update(stored.passage_id, text="the code is omega")
    then = pb.PassageFilter(recorded_as_of=before)
    for mode in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_SEMANTIC, pb.SEARCH_MODE_HYBRID):
        assert await archive.found("alpha", mode=mode, filter=then) == ["the code is alpha"]
    assert await archive.found("omega", mode=pb.SEARCH_MODE_LEXICAL, filter=then) == []
    assert await archive.found("alpha", mode=pb.SEARCH_MODE_LEXICAL) == []
    await archive.delete(stored.passage_id)
    assert await archive.found("alpha", filter=then) == []
    assert await archive.list_all(filter=then) == []
