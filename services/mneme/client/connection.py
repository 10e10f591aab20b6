"""Where the suite is and how it is called: addresses, credential, deadlines, retries."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_ADDRESS = "localhost:7600"

HEALTH_NAMES: Mapping[str, str] = {
    "orchestrator": "mneme.orchestrator.v1.AgentService",
    "core_memory": "mneme.core_memory.v1.CoreMemoryService",
    "recall": "mneme.recall.v1.RecallService",
    "archival": "mneme.archival.v1.ArchivalService",
    "embedding": "mneme.embedding.v1.EmbeddingService",
    "semantic_cache": "mneme.semantic_cache.v1.SemanticCacheService",
}

TokenSource = str | Path | Callable[[], str]


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a suite."""

    address: str = ""
    """`host:port`, or any gRPC target, of services without an own one. Empty: `MNEME_ADDRESS`, else localhost:7600."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Own addresses of services, by name, for a suite without a common front door."""
    token: TokenSource = ""
    """Credential: the JWT itself, a file that holds it (read again when it changes), or a function that returns it.
    Empty: `MNEME_TOKEN`, else the file named by `MNEME_TOKEN_FILE`."""
    tls_ca: Path | None = None
    """PEM file of the authority that signed the servers' certificates; set, it turns TLS on."""
    timeout: float = 30.0
    """Seconds a unary call may take unless the call says otherwise."""
    max_message_bytes: int = 16 * 1024 * 1024
    """Largest response accepted."""

    def target(self, service: str) -> str:
        """The gRPC target of a service.

        Raises:
            ValueError: `addresses` names a service that does not exist.
        """
        unknown = sorted(set(self.addresses) - set(HEALTH_NAMES))
        if unknown:
            raise ValueError(f"unknown service {', '.join(unknown)}; the services are {', '.join(HEALTH_NAMES)}")
        address = self.addresses.get(service) or self.address or os.environ.get("MNEME_ADDRESS") or DEFAULT_ADDRESS
        return address if ":///" in address or address.startswith("unix:") else f"dns:///{address}"

    def authorization(self) -> str:
        """Value of the metadata key `authorization`.

        Raises:
            ValueError: There is no credential; the text says where one can come from.
        """
        source: TokenSource = self.token or os.environ.get("MNEME_TOKEN", "") or _path_from_environment()
        if callable(source):
            source = source()
        if isinstance(source, Path):
            source = source.read_text(encoding="utf-8")
        if not source.strip():
            raise ValueError("no credential: pass `token`, or set MNEME_TOKEN or MNEME_TOKEN_FILE")
        return f"Bearer {source.strip()}"

    def options(self, service: str) -> list[tuple[str, Any]]:
        """Channel options: round robin over healthy backends, UNAVAILABLE retried, idle connections kept alive."""
        config = {
            "loadBalancingConfig": [{"round_robin": {}}],
            "healthCheckConfig": {"serviceName": HEALTH_NAMES[service]},
            "methodConfig": [
                {
                    "name": [{}],
                    "retryPolicy": {
                        "maxAttempts": 4,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "2s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        }
        return [
            ("grpc.service_config", json.dumps(config)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
        ]


def _path_from_environment() -> TokenSource:
    name = os.environ.get("MNEME_TOKEN_FILE")
    return Path(name) if name else ""
