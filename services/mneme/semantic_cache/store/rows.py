"""How an entry is laid out in Redis: fixed parts in front, so that scripts and the index read them in place.

Bytes 0 to 15 are the scope's epoch, then, of 16 bytes each, the digest of the basis, the id, the digest of the basis
with which the right to answer was taken, and the place (tenant, agent, user, fingerprint); 8 bytes of the vector's
space; 2 bytes for the number of components; the vector in half precision; the compressed message.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from mneme.semantic_cache.neighbours import Vectors
from mneme.semantic_cache.v1 import semantic_cache_pb2 as pb

PART = 16
_SPACE = 5 * PART
_COUNT = _SPACE + 8
HEAD_BYTES = _COUNT + 2
_COMPRESSION = 1


@dataclass(frozen=True, slots=True)
class Embedded:
    """A question's vector."""

    space: str
    """16 hex digits, made of the space's id."""
    values: Vectors
    """float32[dimensions]."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry that was found, or is to be stored."""

    entry: pb.CacheEntry
    basis_digest: bytes
    """Digest of the basis it rests on."""
    acquired_digest: bytes
    """Digest of the basis with which the right to answer was taken: that of all who waited for the answer."""
    place: bytes
    """Of its tenant, agent, user and fingerprint."""
    embedded: Embedded | None = None
    """Vector of its question; None keeps it to the exact tier."""


@dataclass(frozen=True, slots=True)
class Row:
    """An entry's value as it is in Redis; also a cut one, of which only what is there can be read."""

    value: bytes

    @property
    def epoch(self) -> bytes:
        """The epoch it was stored under."""
        return self.value[:PART]

    @property
    def basis_digest(self) -> bytes:
        """Digest of the basis it rests on."""
        return self.value[PART : 2 * PART]

    @property
    def place(self) -> bytes:
        """Of its tenant, agent, user and fingerprint."""
        return self.value[4 * PART : _SPACE]

    def vector(self, space: str) -> Vectors | None:
        """Returns the vector, float32[dimensions]; None where there is none or it is of another space."""
        if len(self.value) < HEAD_BYTES or self.value[_SPACE:_COUNT].hex() != space:
            return None
        (count,) = struct.unpack_from("<H", self.value, _COUNT)
        if not count or len(self.value) < HEAD_BYTES + 2 * count:
            return None
        return np.frombuffer(self.value, dtype="<f2", count=count, offset=HEAD_BYTES).astype(np.float32)

    def decode(self) -> Stored | None:
        """Returns the entry; None when it cannot be read."""
        if len(self.value) < HEAD_BYTES:
            return None
        space = self.value[_SPACE:_COUNT].hex()
        (count,) = struct.unpack_from("<H", self.value, _COUNT)
        try:
            entry = pb.CacheEntry.FromString(zlib.decompress(self.value[HEAD_BYTES + 2 * count :]))
        except (zlib.error, DecodeError):
            return None
        values = self.vector(space)
        return Stored(
            entry,
            basis_digest=self.basis_digest,
            acquired_digest=self.value[3 * PART : 4 * PART],
            place=self.place,
            embedded=None if values is None else Embedded(space, values),
        )


def encode(stored: Stored) -> bytes:
    """Returns the value without its epoch, which the server adds."""
    embedded = stored.embedded
    values = b"" if embedded is None else embedded.values.astype("<f2").tobytes()
    return b"".join(
        (
            stored.basis_digest,
            id_bytes(stored.entry.entry_id),
            stored.acquired_digest,
            stored.place,
            bytes(8) if embedded is None else bytes.fromhex(embedded.space),
            struct.pack("<H", len(values) // 2),
            values,
            zlib.compress(stored.entry.SerializeToString(), _COMPRESSION),
        )
    )


def id_bytes(entry_id: str) -> bytes:
    """Returns the 16 bytes behind an id of ours; zeros, which no entry has, for any other text."""
    try:
        raw = bytes.fromhex(entry_id.removeprefix("entry-"))
    except ValueError:
        return bytes(PART)
    return raw if len(raw) == PART else bytes(PART)
