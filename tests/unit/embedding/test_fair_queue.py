"""Urgent before bulk, and every tenant its share."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mneme.embedding.fair_queue import FairQueue, Kind, Ticket, Urgency
from mneme.embedding.provider import InputType

PLAIN = Kind(InputType.DOCUMENT, truncate=False)
CUT = Kind(InputType.DOCUMENT, truncate=True)


def queue_of(weights: dict[str, float] | None = None) -> FairQueue[Ticket]:
    return FairQueue(lambda tenant: (weights or {}).get(tenant, 1.0))


def ticket(tenant: str, urgency: Urgency = Urgency.INTERACTIVE, *, cost: float = 1.0, kind: Kind = PLAIN) -> Ticket:
    return Ticket(tenant, kind, urgency, cost)


def fill(queue: FairQueue[Ticket], *tickets: Ticket) -> list[Ticket]:
    for one in tickets:
        queue.enter(one)
    return list(tickets)


def tenants(queue: FairQueue[Ticket], count: int) -> list[str]:
    return [queue.take(1)[0].tenant for _ in range(count)]


def test_a_tenants_own_tickets_keep_their_order() -> None:
    queue = queue_of()
    entered = fill(queue, *(ticket("a") for _ in range(5)))
    assert queue.take(5) == entered


def test_one_text_does_not_wait_behind_ten_thousand_of_another_tenant() -> None:
    queue = queue_of()
    fill(queue, *(ticket("flood") for _ in range(10_000)))
    queue.take(100)
    fill(queue, ticket("single"))
    assert "single" in tenants(queue, 2)


def test_shares_follow_the_weights() -> None:
    queue = queue_of({"double": 2.0})
    fill(queue, *(ticket(tenant) for tenant in ("double", "plain") for _ in range(300)))
    served = Counter(tenants(queue, 300))
    assert 195 <= served["double"] <= 205


def test_shares_are_of_work_not_of_texts() -> None:
    queue = queue_of()
    fill(queue, *(ticket("long", cost=10.0) for _ in range(50)), *(ticket("short") for _ in range(500)))
    served = Counter(tenants(queue, 220))
    assert 18 <= served["long"] <= 22


def test_bulk_waits_behind_interactive() -> None:
    queue = queue_of()
    fill(queue, *(ticket("a", Urgency.BULK) for _ in range(3)), ticket("b"), ticket("b"))
    assert tenants(queue, 5) == ["b", "b", "a", "a", "a"]


def test_a_batch_holds_one_urgency_and_one_kind() -> None:
    queue = queue_of()
    fill(queue, ticket("a", kind=CUT), ticket("a"), ticket("b", kind=CUT), ticket("c", Urgency.BULK, kind=CUT))
    first = queue.first()
    assert first is not None
    assert (first[0].kind, first[1]) == (CUT, 2)
    assert [one.kind for one in queue.take(10)] == [CUT, CUT]
    assert [one.kind for one in queue.take(10)] == [PLAIN]
    assert [one.urgency for one in queue.take(10)] == [Urgency.BULK]
    assert queue.take(10) == []


def test_a_bulk_ticket_that_somebody_waits_for_now_goes_first() -> None:
    queue = queue_of()
    entered = fill(queue, *(ticket("a", Urgency.BULK) for _ in range(3)))
    queue.hurry(entered[2])
    assert (queue.count(Urgency.INTERACTIVE), queue.count(Urgency.BULK)) == (1, 2)
    assert [queue.take(1)[0] for _ in range(3)] == [entered[2], entered[0], entered[1]]
    assert len(queue) == 0


def test_what_comes_again_goes_first_and_is_not_paid_for_twice() -> None:
    queue = queue_of()
    fill(queue, *(ticket("a") for _ in range(3)), *(ticket("b") for _ in range(3)))
    (again,) = queue.take(1)
    queue.enter(again)
    assert queue.take(1) == [again]
    assert Counter(tenants(queue, 3))["a"] <= 2


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(Urgency),
        st.sampled_from([PLAIN, CUT]),
        st.sampled_from(["stay", "hurry", "take"]),
        st.integers(1, 5),
    )
)


@given(ENTRIES)
def test_whatever_happens_each_ticket_comes_out_once_and_urgent_ones_first(
    entries: list[tuple[str, Urgency, Kind, str, int]],
) -> None:
    queue, out, inside = queue_of(), list[Ticket](), list[Ticket]()
    for tenant, urgency, kind, then, cost in entries:
        inside += fill(queue, ticket(tenant, urgency, cost=cost, kind=kind))
        if then == "hurry":
            queue.hurry(inside[len(inside) // 2])
        elif then == "take":
            out += queue.take(cost)
    assert len(queue) == len(inside) - len(out)
    rest: list[Ticket] = []
    while taken := queue.take(3):
        assert len({(one.urgency, one.kind) for one in taken}) == 1
        rest += taken
    assert [one.urgency for one in rest] == sorted(one.urgency for one in rest)
    assert Counter(map(id, [*out, *rest])) == Counter(map(id, inside))
