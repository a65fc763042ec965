"""``Misuse``: the command line asks for something that cannot be; exit code 2, one sentence, no traceback."""


class Misuse(ValueError):
    """What was typed is not usable; ``str()`` of it says what is and is shown as it stands."""
