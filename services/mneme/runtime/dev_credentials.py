"""Makes the credentials of a development data folder: key, key set, token and suite secret, readable by their
owner.

`mneme dev` trusts the key set; the command line and the client find the token file by themselves.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

DEV_ISSUER = "mneme-dev"
DEV_AUDIENCE = "mneme"
DEV_TENANT = "dev"
DEV_ACTOR = "developer"

_KEY_ID = "dev"
_TEN_YEARS = 10 * 365 * 86400


@dataclass(frozen=True, slots=True)
class DevCredentials:
    """Where a data folder keeps its credentials."""

    jwks_path: Path
    """Key set to trust, for `auth.jwks`."""
    token_path: Path
    """Token of tenant `dev`, actor `developer`, scope `admin`."""
    suite_keys_path: Path
    """Secret that signs service tokens, for `auth.suite_keys_file`."""


def ensure_dev_credentials(data_dir: Path) -> DevCredentials:
    """Returns the credentials of a data folder, and makes what is missing.

    Raises:
        OSError: The folder cannot be written.
    """
    paths = DevCredentials(data_dir / "jwks.json", data_dir / "token", data_dir / "suite.key")
    data_dir.mkdir(parents=True, exist_ok=True)
    key_path = _key_path(data_dir)
    if not key_path.exists():
        _write(key_path, _pem(Ed25519PrivateKey.generate()))
        paths.jwks_path.unlink(missing_ok=True)
        paths.token_path.unlink(missing_ok=True)
    if not paths.jwks_path.exists():
        _write(paths.jwks_path, json.dumps({"keys": [_public_jwk(_private_key(data_dir))]}))
    if not paths.suite_keys_path.exists():
        _write(paths.suite_keys_path, secrets.token_hex(32) + "\n")
    if not paths.token_path.exists():
        _write(paths.token_path, mint_dev_token(data_dir, lifetime=_TEN_YEARS) + "\n")
    return paths


def mint_dev_token(
    data_dir: Path,
    tenant: str = DEV_TENANT,
    user: str = "",
    *,
    actor: str = DEV_ACTOR,
    scopes: Sequence[str] = ("admin",),
    lifetime: float = 3600,
) -> str:
    """Returns a user credential signed with the data folder's key.

    Args:
        data_dir: Folder in which `ensure_dev_credentials` was called.
        tenant: Tenant it is for.
        user: User it is bound to; empty for a credential that may act for any user.
        actor: Its subject.
        scopes: Its scopes.
        lifetime: Seconds until it expires; negative for an expired one.

    Raises:
        FileNotFoundError: The folder has no key.
    """
    claims: dict[str, Any] = {
        "iss": DEV_ISSUER,
        "aud": DEV_AUDIENCE,
        "sub": actor,
        "tenant": tenant,
        "scope": " ".join(scopes),
        "exp": int(time.time() + lifetime),
    }
    if user:
        claims["user"] = user
    return jwt.encode(claims, _private_key(data_dir), "EdDSA", headers={"kid": _KEY_ID})


def _key_path(data_dir: Path) -> Path:
    return data_dir / "dev.key"


def _private_key(data_dir: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(_key_path(data_dir).read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def _pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _public_jwk(key: Ed25519PrivateKey) -> dict[str, Any]:
    jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": _KEY_ID, "use": "sig", "alg": "EdDSA"}


def _write(path: Path, text: str) -> None:
    """Writes a file that only its owner reads; another process sees all of it or nothing."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    scratch.replace(path)
