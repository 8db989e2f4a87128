"""The exception for mistakes that a user can correct."""


class InputError(ValueError):
    """Bad config, file, graph, data or message: one sentence that names the culprit and the allowed values.

    The apps and the command line show it without a traceback.
    """


class RunRefusedError(InputError):
    """An InputError that leaves an app, without the traceback that Flower would log."""

    @property
    def __traceback__(self) -> None:
        """No frames: the sentence is for the user, and Flower logs an app's exceptions with their frames."""
        return

    @__traceback__.setter
    def __traceback__(self, frames: object) -> None:
        """Ignore frames (context managers set them)."""
