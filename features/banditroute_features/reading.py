"""Reading files that somebody else wrote: never more than is expected of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

__all__ = ["read_bounded"]

MOST: Final = 64 << 20  # bytes


def read_bounded(path: str | os.PathLike[str], most: int = MOST) -> bytes:
    """Read a whole file, unless it is larger than a bound.

    Parameters
    ----------
    path : str or PathLike
        The file; a device that never ends is one, too.
    most : int
        Bytes that are taken at most.

    Returns
    -------
    bytes
        What it holds.

    Raises
    ------
    OSError
        If it cannot be read or holds more.

    Examples
    --------
    >>> read_bounded("/dev/zero", 100)
    Traceback (most recent call last):
    ...
    OSError: [Errno 27] it holds more than 100 bytes: '/dev/zero'
    """
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it holds more than {most} bytes", str(path))
    return data
