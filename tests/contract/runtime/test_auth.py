"""Who gets in: credentials of every kind and state, against a real server."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from pydantic import SecretStr

from mneme.runtime.auth import Authenticator, KeySet, ServiceTokens, SuiteKeys, access_of
from mneme.runtime.call import Principal
from mneme.runtime.dev_credentials import DevCredentials, ensure_dev_credentials, mint_dev_token
from mneme.runtime.errors import Error
from mneme.settings import AuthSettings
from tests.contract.runtime import echo
from tests.contract.runtime.conftest import Launch, Running, failure

ANN = Principal(tenant="acme", actor="model:offline", user="ann")


def service_token(running: Running, service: str = "recall", peer: str = "echo", **settings: Any) -> str:
    auth = running.auth.model_copy(update=settings)
    return ServiceTokens(SuiteKeys.load(auth), auth).token(service, peer, ANN)


async def refused(running: Running, token: str | None, method: str = "Say") -> Error:
    return await failure(running.start(method, echo.request(), token=token))


async def test_no_credential_says_what_to_send(running: Running) -> None:
    error = await refused(running, None)
    assert (error.code, error.reason_name) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "Bearer" in error.message


async def test_an_expired_credential_has_its_own_reason_also_from_the_cache(
    running: Running, credentials: DevCredentials
) -> None:
    assert (await refused(running, running.token(lifetime=-60))).reason_name == "CREDENTIAL_EXPIRED"
    now = [time.time()]
    authenticator = Authenticator(running.auth, SuiteKeys.load(running.auth), clock=lambda: now[0])
    sent = f"Bearer {running.token(lifetime=60)}"
    assert (await authenticator.authenticate(sent, "echo")).tenant == "acme"
    now[0] += 120
    with pytest.raises(Error) as raised:
        await authenticator.authenticate(sent, "echo")
    assert raised.value.reason_name == "CREDENTIAL_EXPIRED"


def unsigned(claims: dict[str, Any], header: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))
    return ".".join([*parts, ""])


async def test_forged_tokens_are_refused(running: Running, credentials: DevCredentials) -> None:
    claims = {"iss": "mneme-dev", "aud": "mneme", "sub": "x", "tenant": "acme", "exp": time.time() + 60}
    public = json.loads(credentials.jwks_path.read_text())["keys"][0]["x"]
    forged = [
        "",
        "nonsense",
        "a.b.c",
        unsigned(claims, {"alg": "none", "typ": "JWT"}),
        unsigned(claims, {"alg": "none", "typ": "JWT", "kid": "dev"}),
        # The public key as a secret: the classic confusion of algorithms.
        jwt.encode(claims, public.ljust(32, "="), "HS256", headers={"kid": "dev"}),
        jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": "dev"}),
        running.token()[:-4] + "AAAA",
    ]
    for token in forged:
        error = await failure(
            running.start("Say", echo.request(), token=None, metadata=(("authorization", f"Bearer {token}"),))
        )
        assert error.reason_name == "UNAUTHENTICATED", token
    error = await failure(running.start("Say", echo.request(), token=None, metadata=(("authorization", "Basic YTpi"),)))
    assert error.reason_name == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another-product"},
        {"iss": "another-issuer"},
        {"tenant": None},
        {"tenant": 5},
        {"tenant": "a:b"},
        {"tenant": "a{b}"},
        {"sub": ""},
        {"user": "a\nb"},
        {"nbf": 4_000_000_000},
        {"exp": None},
    ],
)
async def test_wrong_claims_are_refused(running: Running, change: dict[str, Any]) -> None:
    claims = jwt.decode(running.token(), options={"verify_signature": False}) | change
    claims = {name: value for name, value in claims.items() if value is not None}
    error = await refused(running, jwt.encode(claims, signing_key(running), "EdDSA", headers={"kid": "dev"}))
    assert error.reason_name == "UNAUTHENTICATED"


def signing_key(running: Running) -> str:
    return (running.data_dir / "dev.key").read_text()


async def test_scopes_may_be_a_list_or_a_text(running: Running) -> None:
    claims = jwt.decode(running.token(), options={"verify_signature": False})
    for scope in (["admin"], "read admin"):
        token = jwt.encode({**claims, "scope": scope}, signing_key(running), "EdDSA", headers={"kid": "dev"})
        await running.start("Administer", echo.request(), token=token)


async def test_admin_methods_need_the_scope(running: Running) -> None:
    await running.start("Administer", echo.request())
    error = await refused(running, running.token(scopes=()), "Administer")
    assert (error.code, error.reason_name) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert "admin" in error.message


async def test_methods_open_to_the_callers_their_contract_lists(running: Running) -> None:
    answer = await running.start("Say", echo.request(), token=service_token(running))
    assert (answer.service, answer.tenant, answer.user, answer.actor) == ("recall", "acme", "ann", "model:offline")
    await running.start("ServeServices", echo.request(), token=service_token(running))
    for token, method in (
        (service_token(running, "archival"), "Say"),
        (service_token(running), "SayMany"),
        (running.token(), "ServeServices"),
        (running.token(), "Forgotten"),
        (service_token(running), "Forgotten"),
    ):
        started = running.start(method, echo.request(), token=token)
        error = await failure(started.read() if method == "SayMany" else started)
        assert error.reason_name == "CALLER_NOT_ALLOWED", method
        assert error.metadata["method"] == f"{echo.SERVICE}/{method}"


async def test_a_credential_bound_to_one_user_needs_a_method_that_says_so(running: Running) -> None:
    bound = running.token(user="ann", scopes=("admin",))
    assert (await running.start("Say", echo.request(), token=bound)).user == "ann"
    error = await refused(running, bound, "Administer")
    assert (error.code, error.reason_name) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert error.metadata["caller"] == "bound user"


async def test_a_service_token_is_for_one_audience(running: Running) -> None:
    error = await refused(running, service_token(running, peer="archival"))
    assert error.reason_name == "UNAUTHENTICATED"
    assert "archival" in error.message


async def test_suite_keys_rotate(running: Running) -> None:
    old = running.data_dir / "suite.key"
    current = SecretStr(old.read_text().strip())
    fresh = SecretStr("f" * 64)
    assert (await refused(running, service_token(running, suite_keys=(fresh,)))).reason_name == "UNAUTHENTICATED"
    both = running.auth.model_copy(update={"suite_keys": (fresh, current)})
    authenticator = Authenticator(both, SuiteKeys.load(both))
    for keys in ((fresh,), (current,), (current, fresh)):
        token = service_token(running, suite_keys=keys)
        assert (await authenticator.authenticate(f"Bearer {token}", "echo")).service == "recall"


@pytest.mark.parametrize("secrets", [(), ("short",)])
def test_weak_suite_keys_are_refused(secrets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="suite key"):
        SuiteKeys(secrets)


def test_service_tokens_are_reused_until_shortly_before_their_end() -> None:
    now = [1_000_000.0]
    tokens = ServiceTokens(SuiteKeys(("k" * 32,)), AuthSettings(cache_size=2), clock=lambda: now[0])
    first = tokens.token("orchestrator", "recall", ANN)
    now[0] += 30
    assert tokens.token("orchestrator", "recall", ANN) == first
    assert tokens.token("orchestrator", "archival", ANN) != first
    now[0] += 20
    assert tokens.token("orchestrator", "recall", ANN) != first
    claims = jwt.decode(first, options={"verify_signature": False})
    assert claims["exp"] == 1_000_060


async def test_a_new_key_of_the_issuer_is_found_and_a_lost_one_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    keys = {name: Ed25519PrivateKey.generate() for name in ("one", "two")}

    def publish(*names: str) -> None:
        public = [{**OKPAlgorithm.to_jwk(keys[n].public_key(), as_dict=True), "kid": n} for n in names]
        path.write_text(json.dumps({"keys": public}))

    now = [0.0]
    settings = AuthSettings(jwks=str(path), jwks_min_interval=10, jwks_refresh=300)
    key_set = KeySet(settings, clock=lambda: now[0])
    with pytest.raises(Error) as raised:
        await key_set.key("one")
    assert raised.value.reason_name == "PEER_UNAVAILABLE"
    publish("one")
    assert (await key_set.key("one")).key_id == "one"
    publish("two")
    with pytest.raises(Error, match="does not publish"):
        await key_set.key("two")
    now[0] = 11
    assert (await key_set.key("two")).key_id == "two"
    with pytest.raises(Error, match="does not publish"):
        await key_set.key("one")
    path.unlink()
    now[0] = 400
    assert (await key_set.key("two")).key_id == "two"


def test_development_credentials_are_private_and_stay(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    made = ensure_dev_credentials(folder)
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(texts) == {"dev.key", "jwks.json", "token", "suite.key"}
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_dev_credentials(folder) == made
    assert {path.name: path.read_text() for path in folder.iterdir()} == texts
    claims = jwt.decode(made.token_path.read_text().strip(), options={"verify_signature": False})
    assert (claims["tenant"], claims["sub"], claims["scope"]) == ("dev", "developer", "admin")
    (folder / "dev.key").unlink()
    os.utime(folder)
    ensure_dev_credentials(folder)
    assert made.jwks_path.read_text() != texts["jwks.json"]
    assert made.token_path.read_text() != texts["token"]


def test_a_method_without_a_rule_is_open_to_no_one() -> None:
    rule = access_of("mneme.nothing.v1.NoService/Call")
    assert not rule.users
    assert not rule.services


async def test_the_token_file_of_a_data_folder_opens_the_door(running: Running, credentials: DevCredentials) -> None:
    answer = await running.start("Administer", echo.request(), token=credentials.token_path.read_text().strip())
    assert (answer.tenant, answer.actor) == ("dev", "developer")
    with pytest.raises(FileNotFoundError):
        mint_dev_token(running.data_dir / "elsewhere")


async def test_health_and_reflection_need_no_credential(launch: Launch) -> None:
    async with launch() as running:
        check = running.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"

        async def ask() -> AsyncIterator[bytes]:
            yield b"\x3a\x00"

        reflect = running.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        answers = b"".join([answer async for answer in reflect(ask())])
        assert echo.SERVICE.encode() in answers
        assert b"grpc.health.v1.Health" in answers
