"""gRPC ignores an option that it does not know, so a misspelt name would pass in silence."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import mneme

SOURCES = ("runtime/server.py", "runtime/peers.py", "client/connection.py")


@pytest.fixture(scope="module")
def grpc_core() -> bytes:
    """The compiled library, which holds the names of all its options."""
    found = importlib.util.find_spec("grpc._cython.cygrpc")
    assert found is not None
    return Path(str(found.origin)).read_bytes()


@pytest.mark.parametrize("source", SOURCES)
def test_grpc_knows_every_option(source: str, grpc_core: bytes) -> None:
    text = (Path(str(mneme.__file__)).parent / source).read_text(encoding="utf-8")
    names = set(re.findall(r'\("(grpc\.[a-z0-9_.]+)", ', text))
    assert names
    assert not [name for name in sorted(names) if name.encode() + b"\0" not in grpc_core]
