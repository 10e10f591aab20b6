from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from mneme import settings
from mneme.settings import Section, Settings


def test_sources_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "mneme.toml"
    config.write_text('[server]\nport = 1\nhost = "file"\n[peers]\ntimeout = 3.5\n', encoding="utf-8")
    monkeypatch.setenv("MNEME_SERVER__PORT", "2")
    effective = settings.load(config, {"auth": {"issuer": "flag"}})
    assert (effective.server.port, effective.server.host) == (2, "file")
    assert (effective.peers.timeout, effective.auth.issuer) == (3.5, "flag")
    assert settings.load(config, {"server": {"port": 3}}).server.port == 3


@pytest.mark.parametrize("text", ["[server]\nprot = 1\n", "[sever]\nport = 1\n", "[server]\nport = -7\n"])
def test_unknown_and_impossible_values_are_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "mneme.toml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ValidationError, match=r"prot|sever|port"):
        settings.load(config)


def test_an_unknown_nested_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEME_SERVER__PROT", "2")
    with pytest.raises(ValidationError, match="prot"):
        settings.load()


def test_half_a_tls_setting_never_means_plain_text(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="belong together"):
        settings.load(overrides={"server": {"tls_certificate": tmp_path / "tls.crt"}})


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEME_DATABASE__URL", "postgresql://user:secret@host/mneme")
    monkeypatch.setenv("MNEME_AUTH__SUITE_KEYS", '["a-secret-of-at-least-32-bytes-----"]')
    effective = settings.load()
    assert "secret" in effective.database.url.get_secret_value()
    assert "secret@" not in str(settings.masked(effective))
    assert "a-secret-of" not in str(settings.masked(effective))
    assert "a-secret-of" not in repr(effective)


def fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    for name, one in model.model_fields.items():
        yield f"{path}{name}", one.description
        if isinstance(one.annotation, type) and issubclass(one.annotation, Section):
            yield from fields(one.annotation, f"{path}{name}.")


def test_every_setting_is_documented() -> None:
    assert [name for name, description in fields(Settings) if not description] == []
