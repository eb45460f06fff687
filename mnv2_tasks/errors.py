"""The one exception that is meant for people."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, the field and the fix; command lines print it and stop with exit
    code 2, without a traceback.
    """
