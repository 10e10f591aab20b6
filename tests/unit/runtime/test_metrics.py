"""The catalogue of instruments against the code that observes them."""

from __future__ import annotations

import re
from pathlib import Path

import mneme.runtime.metrics
from mneme.runtime.metrics import Metrics


def test_every_instrument_of_the_catalogue_is_observed() -> None:
    catalogue = Path(mneme.runtime.metrics.__file__)
    sources = [path for path in catalogue.parents[1].rglob("*.py") if path != catalogue]
    used = set(re.findall(r"metrics\s*\.(\w+)", "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    assert set(vars(Metrics())) - {"registry"} - used == set()
