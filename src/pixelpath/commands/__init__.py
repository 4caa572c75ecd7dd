"""Commands: the application. Each module holds one command as a function whose parameters are the options of the command line."""


class RefusedError(Exception):
    """Carries a user's mistake (its cause) through tyro, which would print a ValueError in a box of its own."""
