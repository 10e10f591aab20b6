"""What the runtime needs of every contract of the suite."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from mneme.common.v1 import options_pb2
from mneme.runtime import validation
from mneme.runtime.auth import access_of
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
        assert access.users or not access.admin, method.full_name


def test_an_orchestrator_may_relay_a_stream_to_its_replica() -> None:
    assert "orchestrator" in access_of("mneme.orchestrator.v1.AgentService/WatchRun").services
