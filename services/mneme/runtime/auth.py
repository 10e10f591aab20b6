"""Who may call: verifies credentials, and issues the tokens that services show each other.

Two kinds of credential exist. A *user credential* is a JWT of the operator's issuer, signed with a private
key whose public half is in the issuer's key set. A *service token* is a short JWT {sub: service, aud: peer,
tenant, user, actor} that the suite signs with its own shared secret: user credentials are never forwarded.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import jwt
import structlog
from google.protobuf import descriptor_pool

from mneme.common.v1 import options_pb2
from mneme.errors.v1 import errors_pb2
from mneme.runtime.call import Principal
from mneme.runtime.errors import Error
from mneme.settings import AuthSettings

log = structlog.stdlib.get_logger("mneme.runtime.auth")

SUITE_ISSUER = "mneme-suite"
SUITE_ALGORITHM = "HS256"
# Asymmetric only: with HS256 in the list a public key could be abused as a secret.
USER_ALGORITHMS = ("EdDSA", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
MIN_SUITE_KEY_BYTES = 32

# Tenants are parts of cache keys, in which `:` and braces have a meaning.
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_SERVICE_LEEWAY = 10.0
_RENEW_BEFORE = 15.0

K = TypeVar("K")
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """A dictionary that keeps the most recently used entries."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified credential."""

    principal: Principal
    """Who is behind it."""
    expires: float
    """When it ends, in Unix seconds."""
    audience: str
    """Service that a service token is for; empty for a user credential."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call one method, as its contract says."""

    method: str
    """Full name of the method, `mneme.recall.v1.RecallService/AppendMessages`."""
    service: str
    """Service of the suite that offers it, `recall`."""
    users: bool
    """User credentials may call it."""
    services: frozenset[str]
    """Services that may call it."""
    admin: bool
    """A user credential needs the scope `admin`."""
    bound_users: bool
    """User credentials that are bound to one user may call it."""

    def check(self, principal: Principal) -> None:
        """Returns when the principal may call the method.

        Raises:
            Error: REASON_CALLER_NOT_ALLOWED, otherwise.
        """
        if principal.service:
            if principal.service not in self.services:
                raise self._refused(principal.service, f"service '{principal.service}' may not call {self.method}")
        elif not self.users:
            raise self._refused("user", f"a user credential may not call {self.method}")
        elif principal.user and not self.bound_users:
            raise self._refused("bound user", f"a credential bound to one user may not call {self.method}")
        elif self.admin and "admin" not in principal.scopes:
            raise self._refused("user", f"{self.method} needs a credential with the scope 'admin'")

    def _refused(self, caller: str, message: str) -> Error:
        return Error(errors_pb2.REASON_CALLER_NOT_ALLOWED, message, metadata={"caller": caller, "method": self.method})


def access_of(method: str) -> Access:
    """Returns who may call a method, by its option (mneme.common.v1.access); no one, when it has none.

    Args:
        method: Full name, `mneme.recall.v1.RecallService/AppendMessages`.
    """
    service_name, _, method_name = method.partition("/")
    service = service_name.split(".")[1] if service_name.count(".") > 1 else service_name
    try:
        found = descriptor_pool.Default().FindServiceByName(service_name).methods_by_name[method_name]
    except KeyError:
        return Access(method, service, users=False, services=frozenset(), admin=False, bound_users=False)
    rule = found.GetOptions().Extensions[options_pb2.access]
    return Access(
        method,
        service,
        users=rule.users,
        services=frozenset(rule.services),
        admin=rule.admin,
        bound_users=rule.bound_users,
    )


class SuiteKeys:
    """The shared secrets of the suite: the first signs, all verify."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        """Args:
        secrets: At least one; each at least 32 bytes.

        Raises:
            ValueError: None, or one that is too short.
        """
        if not secrets:
            raise ValueError("no suite key: set MNEME_AUTH__SUITE_KEYS or MNEME_AUTH__SUITE_KEYS_FILE")
        if any(len(secret.encode()) < MIN_SUITE_KEY_BYTES for secret in secrets):
            raise ValueError(f"a suite key must have at least {MIN_SUITE_KEY_BYTES} bytes")
        self._by_id = {hashlib.sha256(secret.encode()).hexdigest()[:16]: secret for secret in secrets}
        self._signing_id = next(iter(self._by_id))

    @classmethod
    def load(cls, settings: AuthSettings) -> SuiteKeys:
        """Returns the keys of the settings, or of the file they name.

        Raises:
            ValueError: There is none, or one is too short.
            OSError: The file cannot be read.
        """
        secrets = tuple(key.get_secret_value() for key in settings.suite_keys)
        if not secrets and settings.suite_keys_file is not None:
            lines = settings.suite_keys_file.read_text(encoding="utf-8").splitlines()
            secrets = tuple(line.strip() for line in lines if line.strip())
        return cls(secrets)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Returns the claims as a signed token."""
        secret = self._by_id[self._signing_id]
        return jwt.encode(dict(claims), secret, SUITE_ALGORITHM, headers={"kid": self._signing_id})

    def derive(self, purpose: str) -> bytes:
        """Returns a secret for one purpose, the same in all processes that sign with the same key."""
        return hmac.digest(self._by_id[self._signing_id].encode(), purpose.encode(), "sha256")

    def verify(self, token: str, key_id: str) -> dict[str, Any]:
        """Returns the claims of a token of the suite; its audience is left to the caller.

        Raises:
            jwt.InvalidTokenError: It cannot be verified.
        """
        secret = self._by_id.get(key_id)
        if secret is None:
            raise jwt.InvalidTokenError("it was signed with an unknown key of the suite")
        return jwt.decode(
            token,
            secret,
            [SUITE_ALGORITHM],
            issuer=SUITE_ISSUER,
            leeway=_SERVICE_LEEWAY,
            options={"require": ["exp", "iss", "sub", "aud"], "verify_aud": False},
        )


class ServiceTokens:
    """Mints the tokens that services show each other; one is reused until shortly before it expires."""

    def __init__(self, keys: SuiteKeys, settings: AuthSettings, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._seconds = settings.service_token_seconds
        self._clock = clock
        self._minted: _Recent[tuple[str, str, str, str, str], tuple[str, float]] = _Recent(settings.cache_size)

    def token(self, service: str, peer: str, principal: Principal) -> str:
        """Returns a token by which `service` calls `peer` on behalf of the principal."""
        key = (service, peer, principal.tenant, principal.user, principal.actor)
        now = self._clock()
        found = self._minted.get(key)
        if found is not None and found[1] - _RENEW_BEFORE > now:
            return found[0]
        expires = now + self._seconds
        claims = {
            "iss": SUITE_ISSUER,
            "sub": service,
            "aud": peer,
            "tenant": principal.tenant,
            "user": principal.user,
            "actor": principal.actor,
            "exp": int(expires),
        }
        token = self._keys.sign(claims)
        self._minted.put(key, (token, expires))
        return token


class KeySet:
    """The public keys of the operator's issuer, read again from their URL or file when they may have changed."""

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = settings.jwks
        self._settings = settings
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = -float("inf")
        self._reading = asyncio.Lock()

    async def key(self, key_id: str) -> jwt.PyJWK:
        """Returns the key of that id; the only key for an empty id.

        Raises:
            Error: REASON_UNAUTHENTICATED for an unknown key, REASON_PEER_UNAVAILABLE when no key set can be
            read.
        """
        age = self._clock() - self._read_at
        known = self._find(key_id)
        if age > self._settings.jwks_refresh or (known is None and age > self._settings.jwks_min_interval):
            await self._refresh()
            known = self._find(key_id)
        if known is None:
            raise _unauthenticated("it was signed with a key that the issuer does not publish")
        return known

    def _find(self, key_id: str) -> jwt.PyJWK | None:
        if not key_id and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        asked_at = self._clock()
        async with self._reading:
            if self._read_at >= asked_at:
                return
            try:
                text = await asyncio.to_thread(_read, self._source, self._settings.jwks_timeout)
                keys = jwt.PyJWKSet.from_json(text).keys
            except (OSError, ValueError, jwt.PyJWTError) as failure:
                log.warning("jwks_read_failed", source=self._source, error=str(failure))
                self._read_at = self._clock()
                if not self._keys:
                    self._read_at = -float("inf")
                    raise Error(
                        errors_pb2.REASON_PEER_UNAVAILABLE,
                        "the key set of the credentials' issuer cannot be read",
                        metadata={"service": "issuer"},
                    ) from failure
                return
            self._keys = {key.key_id or "": key for key in keys}
            self._read_at = self._clock()


def _read(source: str, timeout: float) -> str:
    if not source:
        raise ValueError("no key set is configured: set MNEME_AUTH__JWKS")
    if source.startswith(("https://", "http://")):
        with urllib.request.urlopen(source, timeout=timeout) as answer:  # noqa: S310
            return str(answer.read(1 << 20).decode())
    return Path(source).read_text(encoding="utf-8")


class Authenticator:
    """Turns the `authorization` value of a call into a principal."""

    def __init__(self, settings: AuthSettings, suite_keys: SuiteKeys, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._suite_keys = suite_keys
        self._issuer_keys = KeySet(settings)
        self._clock = clock
        self._verified: _Recent[bytes, Credential] = _Recent(settings.cache_size)

    async def authenticate(self, authorization: str | None, audience: str) -> Principal:
        """Returns who is behind a call.

        Args:
            authorization: Value of the call's metadata key of that name, `Bearer <token>`; None when absent.
            audience: Service that was called, `recall`.

        Raises:
            Error: REASON_UNAUTHENTICATED or REASON_CREDENTIAL_EXPIRED.
        """
        if not authorization:
            raise Error(errors_pb2.REASON_UNAUTHENTICATED, "no credential: send 'authorization: Bearer <token>'")
        digest = hashlib.sha256(authorization.encode()).digest()
        credential = self._verified.get(digest)
        if credential is None:
            credential = await self._verify(authorization)
            self._verified.put(digest, credential)
        elif credential.expires <= self._clock():
            raise _expired(credential.expires)
        if credential.audience and credential.audience != audience:
            raise _unauthenticated(f"it is for service '{credential.audience}', not for '{audience}'")
        return credential.principal

    async def _verify(self, authorization: str) -> Credential:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise _unauthenticated("it is not of the form 'Bearer <token>'")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") == SUITE_ALGORITHM:
                claims = self._suite_keys.verify(token, str(header.get("kid", "")))
                return self._service_credential(claims)
            claims = await self._user_claims(token, str(header.get("kid") or ""))
            return self._user_credential(claims)
        except jwt.ExpiredSignatureError:
            claims = jwt.decode(token, options={"verify_signature": False, "verify_exp": False})
            raise _expired(float(claims["exp"])) from None
        except jwt.PyJWTError as failure:
            raise _unauthenticated(str(failure)) from None

    async def _user_claims(self, token: str, key_id: str) -> dict[str, Any]:
        key = await self._issuer_keys.key(key_id)
        return jwt.decode(
            token,
            key,
            list(USER_ALGORITHMS),
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            leeway=self._settings.leeway,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )

    def _user_credential(self, claims: Mapping[str, Any]) -> Credential:
        scopes = claims.get(self._settings.scope_claim) or ()
        principal = Principal(
            tenant=_claim(claims, self._settings.tenant_claim, _TENANT),
            actor=_claim(claims, "sub", _NAME),
            user=_claim(claims, self._settings.user_claim, _NAME, optional=True),
            scopes=frozenset(scopes.split() if isinstance(scopes, str) else map(str, scopes)),
        )
        return Credential(principal, float(claims["exp"]) + self._settings.leeway, audience="")

    def _service_credential(self, claims: Mapping[str, Any]) -> Credential:
        principal = Principal(
            tenant=_claim(claims, "tenant", _TENANT),
            actor=_claim(claims, "actor", _NAME),
            user=_claim(claims, "user", _NAME, optional=True),
            service=_claim(claims, "sub", _NAME),
        )
        return Credential(principal, float(claims["exp"]) + _SERVICE_LEEWAY, audience=_claim(claims, "aud", _NAME))


def _claim(claims: Mapping[str, Any], name: str, shape: re.Pattern[str], *, optional: bool = False) -> str:
    value = claims.get(name)
    if optional and (value is None or value == ""):
        return ""
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise _unauthenticated(f"its claim '{name}' is missing or malformed")
    return value


def _unauthenticated(problem: str) -> Error:
    return Error(errors_pb2.REASON_UNAUTHENTICATED, f"the credential is not accepted: {problem}")


def _expired(expires: float) -> Error:
    moment = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Error(
        errors_pb2.REASON_CREDENTIAL_EXPIRED,
        f"the credential expired at {moment}",
        metadata={"expired_at": moment},
    )
