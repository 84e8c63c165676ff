"""What cannot be copied by `copy` and `pickle`."""

from __future__ import annotations

from typing import NoReturn


class Uncopied:
    """Refuses `copy.copy`, `copy.deepcopy` and `pickle`.

    Arrays of such an object are views of one buffer, or are found by address: a copy made attribute by attribute
    would have lost that, and would forget what it knows without a word.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Raise TypeError, always."""
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled, because its arrays share buffers: make another one "
            "from the same configuration and give it the same events; what an engine has learned is kept with "
            "`banditroute state export` and brought back with `banditroute state import`"
        )
