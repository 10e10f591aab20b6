"""What an answer rests on: the revisions of the memory it was made from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from mneme.runtime.errors import invalid

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Basis:
    """Revisions by scope. Two answers rest on the same state of memory when their bases are equal."""

    revisions: tuple[tuple[str, int], ...] = ()
    """(scope, revision), sorted, each scope once."""

    @property
    def digest(self) -> bytes:
        """16 bytes that are equal for equal bases."""
        hashed = hashlib.sha256()
        for scope, revision in self.revisions:
            name = scope.encode()
            # Lengths keep ("ab", …) and ("a", …) apart, whatever characters a scope has.
            hashed.update(b"%d:%s%d;" % (len(name), name, revision))
        return hashed.digest()[:DIGEST_BYTES]

    def changed(self, other: Basis) -> list[str]:
        """Returns the scopes whose revision differs, or that only one of the two has; sorted."""
        mine, theirs = dict(self.revisions), dict(other.revisions)
        return sorted(scope for scope in mine | theirs if mine.get(scope) != theirs.get(scope))


def of(revisions: Iterable[tuple[str, int]]) -> Basis:
    """Returns the basis of revisions in any order; a repeated one counts once.

    Raises:
        Error: REASON_INVALID_FIELD, when one scope comes with two revisions.
    """
    unique = sorted(set(revisions))
    for (scope, first), (next_scope, second) in itertools.pairwise(unique):
        if scope == next_scope:
            problem = f"scope '{scope}' has the revisions {first} and {second}"
            raise invalid("key.basis.revisions", problem, scope=scope)
    return Basis(tuple(unique))
