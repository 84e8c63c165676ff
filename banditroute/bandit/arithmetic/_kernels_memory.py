"""Arrays that a kernel finds by their address: many of one kind, such as rows of evidence, in any number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray as untyped_carray  # type: ignore[attr-defined]
from numba import extending, types
from numba.core import cgutils as untyped
from numpy.typing import NDArray

cgutils: Any = untyped
carray: Any = untyped_carray  # (pointer, shape, dtype) to an array
intrinsic: Any = extending.intrinsic


def address_of(array: NDArray[Any]) -> int:
    """Return where the elements of an array are; whoever keeps the address keeps the array."""
    return array.ctypes.data


def addresses_of(arrays: list[NDArray[Any]]) -> NDArray[np.int64]:
    """Return where the elements of each of some arrays are; whoever keeps the addresses keeps the arrays."""
    return np.array([array.ctypes.data for array in arrays], np.int64)


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """Return an address as what ``numba.carray`` makes an array of."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), lower
