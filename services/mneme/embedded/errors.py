"""The one failure of the embedded stores."""


class EmbeddedError(Exception):
    """The embedded stores cannot run; the message is one line that says why and what to do."""
