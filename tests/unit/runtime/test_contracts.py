"""What the runtime needs of every contract of the suite."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from mneme.common.v1 import options_pb2
from mneme.runtime import validation
from mneme.runtime.auth import Access, access_of
from mneme.runtime.call import Principal
from mneme.runtime.errors import Error
from mneme.runtime.peers import PROTO_SERVICES


@pytest.mark.parametrize("name", PROTO_SERVICES)
def test_every_method_says_who_may_call_it_and_its_rules_compile(name: str) -> None:
    validation.prepare(PROTO_SERVICES[name])
    for method in descriptor_pool.Default().FindServiceByName(PROTO_SERVICES[name]).methods:
        assert method.GetOptions().HasExtension(options_pb2.access), method.full_name
        access = access_of(f"{PROTO_SERVICES[name]}/{method.name}")
        assert access.users or access.services, method.full_name
        assert access.service == name
        assert access.services <= set(PROTO_SERVICES), method.full_name
        assert access.users or not (access.admin or access.bound_users), method.full_name


_BOUND = {
    "orchestrator": {
        *("GetAgent", "ListAgents", "CreateConversation", "GetConversation", "ListConversations"),
        *("DeleteConversation", "SendMessage", "SendEvent", "ScheduleEvent", "ListScheduledEvents"),
        *("CancelScheduledEvent", "GetRun", "ListRuns", "WatchRun", "CancelRun", "ResumeRun", "ForgetUser"),
        *("ExportUser", "GetOperation"),
    },
    "core_memory": {
        *("CreateBlock", "GetBlock", "ListBlocks", "UpdateBlock", "DeleteBlock", "AppendText", "ReplaceText"),
        *("RemoveText", "AttachBlock", "DetachBlock", "ListVersions", "DiffVersions", "RestoreVersion"),
        *("RenderMemory", "ListMemoryChanges"),
    },
    "recall": {
        *("AppendMessages", "ListMessages", "GetMessages", "SearchMessages", "GetWindow", "DeleteMessages"),
    },
    "archival": {
        *("InsertPassage", "InsertPassages", "IngestPassages", "GetPassage", "ListPassages", "UpdatePassage"),
        *("DeletePassage", "SearchPassages", "GetKnowledgeBase", "ListKnowledgeBases", "GetRevisions"),
        *("ListMemoryChanges", "GetIngest", "ListPassageVersions", "RestorePassageVersion", "ReinstatePassage"),
    },
    "embedding": set[str](),
    "semantic_cache": {"Feedback"},
}
"""Methods that an end user's own credential may call: each of them must hold to that user's data by itself."""


@pytest.mark.parametrize("name", PROTO_SERVICES)
def test_a_credential_bound_to_one_user_is_refused_by_all_other_methods(name: str) -> None:
    everything = frozenset({"admin"})
    operator = Principal("acme", "operator", scopes=everything)
    ann = Principal("acme", "ann", user="ann", scopes=everything)
    for method in descriptor_pool.Default().FindServiceByName(PROTO_SERVICES[name]).methods:
        access = access_of(f"{PROTO_SERVICES[name]}/{method.name}")
        assert _is_refused(access, operator) is not access.users
        assert _is_refused(access, ann) is (method.name not in _BOUND[name]), method.full_name


def _is_refused(access: Access, principal: Principal) -> bool:
    try:
        access.check(principal)
    except Error as error:
        return error.reason_name == "CALLER_NOT_ALLOWED"
    return False


def test_an_orchestrator_may_relay_a_stream_to_its_replica() -> None:
    assert "orchestrator" in access_of("mneme.orchestrator.v1.AgentService/WatchRun").services
