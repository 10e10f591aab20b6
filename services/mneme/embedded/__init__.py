"""A real PostgreSQL and a real Redis for one laptop; `mneme dev` and the tests run on them."""

from mneme.embedded.errors import EmbeddedError
from mneme.embedded.folder import default_data_dir
from mneme.embedded.suite import Embedded

__all__ = ["Embedded", "EmbeddedError", "default_data_dir"]
