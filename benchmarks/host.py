"""`python -m benchmarks.host NAME...`: `mneme serve` with the stub model in place of every language model."""

from __future__ import annotations

import sys
from unittest import mock

import uvloop

from benchmarks import stub_model
from mneme import registry, settings
from mneme.orchestrator.models import build


def main() -> None:
    """Serves the named services until SIGTERM."""
    # The orchestrator is imported by `serve`, so it takes the model from here.
    with mock.patch.object(build, "build_model", stub_model.build):
        uvloop.run(registry.serve(settings.load(), sys.argv[1:]))


if __name__ == "__main__":
    main()
