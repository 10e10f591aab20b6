"""What strangers see first: reflection lists the services, and each tells its health."""

from __future__ import annotations

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from mneme import registry
from tests.support.deployment import Deployment

EXTRA = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_reflection_lists_six_services_and_health(deployment: Deployment) -> None:
    listed: set[str] = set()
    for address in set(deployment.addresses.values()):
        with grpc.insecure_channel(address) as channel:
            listed |= set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert listed == {service.proto_service for service in registry.SERVICES} | EXTRA


def test_a_client_without_our_code_can_read_every_contract(deployment: Deployment) -> None:
    for service in registry.SERVICES:
        with grpc.insecure_channel(deployment.addresses[service.name]) as channel:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            assert pool.FindServiceByName(service.proto_service).methods


def test_each_service_and_the_process_tell_their_health(deployment: Deployment) -> None:
    for service in registry.SERVICES:
        with grpc.insecure_channel(deployment.addresses[service.name]) as channel:
            health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            for name in (service.proto_service, ""):
                answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
