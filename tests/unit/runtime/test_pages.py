from __future__ import annotations

import pytest

from mneme.recall.v1 import recall_pb2
from mneme.runtime import call, pages
from mneme.runtime.call import Call, Principal
from mneme.runtime.errors import Error


def request(**fields: object) -> recall_pb2.ListMessagesRequest:
    return recall_pb2.ListMessagesRequest(agent_id="agent-1", **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _in_call() -> object:
    with call.enter(Call(Principal(tenant="acme", actor="test"))) as running:
        yield running


def test_a_token_brings_its_cursor_back() -> None:
    token = pages.encode(request(page_size=5), ["message-1", 7, "中"])
    assert pages.decode(request(page_size=50, page_token=token)) == ["message-1", 7, "中"]
    assert pages.decode(request()) is None


def test_a_token_is_for_one_request_and_tenant() -> None:
    token = pages.encode(request(), [1])
    for other in (
        recall_pb2.ListMessagesRequest(agent_id="agent-2", page_token=token),
        recall_pb2.ListMessagesRequest(page_token=token),
    ):
        with pytest.raises(Error, match="was not issued for this request") as raised:
            pages.decode(other)
        assert raised.value.reason_name == "INVALID_PAGE_TOKEN"
    with call.enter(Call(Principal(tenant="other", actor="test"))), pytest.raises(Error):
        pages.decode(request(page_token=token))


@pytest.mark.parametrize("token", ["x", "====", "%%%", "中文", "AAAA", "a" * 5000, "W10", "bnVsbA"])
def test_broken_tokens_are_refused(token: str) -> None:
    with pytest.raises(Error) as raised:
        pages.decode(request(page_token=token))
    assert raised.value.reason_name == "INVALID_PAGE_TOKEN"


def test_every_cut_or_changed_token_is_refused() -> None:
    token = pages.encode(request(), ["message-1", 7])
    for index in range(16):
        changed = token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]
        with pytest.raises(Error):
            pages.decode(request(page_token=changed))
    for length in range(1, len(token)):
        with pytest.raises(Error):
            pages.decode(request(page_token=token[:length]))


def test_page_sizes() -> None:
    assert pages.page_size(0, default=20, maximum=100) == 20
    assert pages.page_size(7, default=20, maximum=100) == 7
    assert pages.page_size(1000, default=20, maximum=100) == 100
    with pytest.raises(Error, match="page_size: -1 is negative"):
        pages.page_size(-1, default=20, maximum=100)
