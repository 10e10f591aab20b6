from __future__ import annotations

import re
import uuid

from mneme.runtime import ids


def test_new_ids_are_typed_unique_and_in_order_of_time() -> None:
    made = [ids.new("block") for _ in range(1000)]
    assert all(re.fullmatch(r"block-[0-9a-f]{32}", one) for one in made)
    assert len(set(made)) == 1000
    prefixes = [one[:18] for one in made]
    assert prefixes == sorted(prefixes)
    assert uuid.UUID(made[0].removeprefix("block-")).version == 7


def test_derived_ids_depend_on_every_part() -> None:
    assert ids.derived("message", "step-1", 2) == ids.derived("message", "step-1", 2)
    different = {
        ids.derived("message", *parts)
        for parts in (("step-1", 2), ("step-1", 3), ("step-12",), ("ab", "c"), ("a", "bc"))
    }
    assert len(different) == 5
    assert uuid.UUID(ids.derived_uuid("operation", "step")).version == 5
    assert ids.derived_uuid("x") == str(uuid.UUID(ids.derived_uuid("x")))
