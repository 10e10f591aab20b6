"""The one failure of the embedded stores."""

from mneme.runtime.errors import OperatorError


class EmbeddedError(OperatorError):
    """The embedded stores cannot run; the message is one line that says why and what to do."""
