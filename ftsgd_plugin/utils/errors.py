"""The exception for mistakes that a user can fix."""


class UserError(ValueError):
    """Input that only the user can fix: a file, a config key, an option.

    The message is a single line that names the file, row or key, says what is wrong and how to put it right.
    The programs in ``tools/`` print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
