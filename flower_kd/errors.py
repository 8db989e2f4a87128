"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Bad config, file, graph, data or message: one sentence that names the culprit and what is allowed.

    The apps and the command line show it without a traceback.
    """


class RunRefusedError(InputError):
    """An InputError on its way out of an app, without the traceback that Flower would print under it."""

    @property
    def __traceback__(self) -> None:
        """No frames: the sentence is for the user, and Flower logs an app's exceptions with their frames."""
        return

    @__traceback__.setter
    def __traceback__(self, frames: object) -> None:
        """Take no frames (context managers on the way out set them)."""
