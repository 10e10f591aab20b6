"""Where an entry lives: a name of each key, in which no text of a question can be read.

All keys of one scope share one hash tag, `{<tenant>:<scope>}`, and so one slot of a cluster: a script can work on an
entry, its lease and its epoch together. The tenant comes from the credential and is a part of every name.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

_PREFIX = "mneme:query"


@dataclass(frozen=True, slots=True)
class Scope:
    """Who shares entries."""

    tenant: str
    agent_id: str
    user_id: str = ""
    """Empty for entries that all users of the agent share."""

    @property
    def tag(self) -> str:
        """The hash tag, `{acme:agent-1}` or `{acme:agent-1/<hash of the user>}`."""
        user = f"/{name_hash(self.user_id)}" if self.user_id else ""
        return f"{{{self.tenant}:{self.agent_id}{user}}}"

    @property
    def epoch_key(self) -> str:
        """Key of the mark that all living entries of the scope carry."""
        return f"{_PREFIX}:{self.tag}:epoch"

    @property
    def kind(self) -> str:
        """`per_user` or `shared`."""
        return "per_user" if self.user_id else "shared"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the answer to one question lives."""

    scope: Scope
    digest: str
    """64 hex digits, made of the question and of all that decides besides memory."""

    @property
    def entry_key(self) -> str:
        """Key of the entry."""
        return f"{_PREFIX}:{self.scope.tag}:{self.digest}"

    @property
    def askers_key(self) -> str:
        """Key of the set of users who asked."""
        return f"{self.entry_key}:askers"

    def lease_key(self, basis_digest: bytes) -> str:
        """Key of the right to answer. Askers with different memory do not wait for each other."""
        return f"{self.entry_key}:lease:{basis_digest.hex()}"


@dataclass(frozen=True, slots=True)
class Partition:
    """The entries that may be neighbours: of one scope and one life of it, one fingerprint, one vector space."""

    scope: Scope
    name: str
    """32 hex digits, made of all of it."""
    space: str
    """16 hex digits, made of the space's id."""
    dimensions: int

    def key(self, family: str) -> str:
        """Returns the partition's key of a family, in its scope's slot."""
        return f"{_PREFIX}:{self.scope.tag}:{family}:{self.name}"

    def entry_key(self, digest: str) -> str:
        """Returns the key of one of its entries."""
        return Address(self.scope, digest).entry_key


def partition(scope: Scope, *, epoch: bytes, fingerprint: str, space_id: str, dimensions: int) -> Partition:
    """Returns where the neighbours of a question are.

    Args:
        scope: Who shares answers.
        epoch: Mark of all living entries of the scope: what was emptied or lost has no neighbours any more.
        fingerprint: Hash of all that shapes an answer besides memory.
        space_id: Vectors of different spaces are never compared.
        dimensions: Components of a vector.
    """
    parts = (place(scope, fingerprint), epoch, space_id.encode(), b"%d" % dimensions)
    message = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return Partition(scope, hashlib.sha256(message).hexdigest()[:32], space_hash(space_id).hex(), dimensions)


def place(scope: Scope, fingerprint: str) -> bytes:
    """Returns 16 bytes that are equal only for entries of one tenant, agent, user and fingerprint."""
    parts = (scope.tenant, scope.agent_id, scope.user_id, fingerprint)
    message = b"".join(b"%d:%s" % (len(part), part) for part in (text.encode() for text in parts))
    return hashlib.sha256(message).digest()[:16]


def space_hash(space_id: str) -> bytes:
    """Returns 8 bytes that stand for a space's id."""
    return hashlib.sha256(space_id.encode()).digest()[:8]


def address(secret: bytes, scope: Scope, *, fingerprint: str, question: str) -> Address:
    """Returns where the answer to a normalised question lives.

    Args:
        secret: Keeps questions from being guessed by their keys; the same on all replicas.
        scope: Who shares the answer.
        fingerprint: Hash of all that shapes an answer besides memory.
        question: Normalised.
    """
    parts = (scope.tenant, scope.agent_id, scope.user_id, fingerprint, question)
    message = b"".join(b"%d:%s" % (len(part), part) for part in (text.encode() for text in parts))
    return Address(scope, hmac.new(secret, message, hashlib.sha256).hexdigest())


def worth_key(tenant: str, family: str) -> str:
    """Returns a key of what a tenant's entries are worth; all of a tenant share a slot."""
    return f"{_PREFIX}:{{{tenant}}}:{family}"


def id_key(tenant: str, entry_id: str) -> str:
    """Returns the key under which an entry's address is found by its id."""
    return f"{_PREFIX}:{{{tenant}}}:id:{entry_id}"


def owned_key(tenant: str, kind: str, name: str) -> str:
    """Returns the key of the list of entries that belong to an agent, a user or an author."""
    return f"{_PREFIX}:{{{tenant}:{kind}:{name_hash(name)}}}:owned"


def name_hash(name: str) -> str:
    """Returns 32 hex digits for a name that may hold any character."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]
