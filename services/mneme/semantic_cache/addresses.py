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

    def lease_key(self, basis_digest: bytes) -> str:
        """Key of the right to answer. Askers with different memory do not wait for each other."""
        return f"{self.entry_key}:lease:{basis_digest.hex()}"


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


def id_key(tenant: str, entry_id: str) -> str:
    """Returns the key under which an entry's address is found by its id."""
    return f"{_PREFIX}:{{{tenant}}}:id:{entry_id}"


def owned_key(tenant: str, kind: str, name: str) -> str:
    """Returns the key of the list of entries that belong to an agent, a user or an author."""
    return f"{_PREFIX}:{{{tenant}:{kind}:{name_hash(name)}}}:owned"


def name_hash(name: str) -> str:
    """Returns 32 hex digits for a name that may hold any character."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]
