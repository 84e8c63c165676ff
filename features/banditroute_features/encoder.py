"""Requests in, contexts out: the public face of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import _kernels
from .columns import STATISTICS_CLIP, STATISTICS_TABLE, TAG_CLIP, TOKEN_WEIGHTS, block_scales
from .protocol import RequestLike
from .spec import FeatureSpec

__all__ = ["Encoder"]

_FLUSH_BYTES: Final = 1 << 20  # bounds the copy of a batch's text; results do not depend on it
_MAX_TOKENS: Final = 2**53  # beyond it float64 has no whole numbers left
_FLOAT32: Final = np.dtype(np.float32)
_FLOAT64: Final = np.dtype(np.float64)
_U64: Final = (1 << 64) - 1
_SILENT: Final = frozenset({"system", "developer"})  # roles that are no turns


class Encoder:
    """Turns requests into contexts of one spec.

    It holds no state but the spec and constants derived from it: one encoder may be shared by threads, and
    the context of a request does not depend on its neighbours in a batch.

    Parameters
    ----------
    spec : FeatureSpec
        The blocks and their widths.

    Notes
    -----
    Tags and tenants are hashed by FNV-1a 64 over their UTF-8 bytes, started from
    ``0xcbf29ce484222325 ^ mix64(seed + salt * 0x9e3779b97f4a7c15)`` with salt 1 for tags and 2 for tenants
    and finished by ``mix64``, the finaliser of splitmix64; the sign is minus where the lowest bit is set, the
    column is ``((h >> 32) * columns) >> 32``.

    A request without any text (no `prompt` and no `messages`) has zeros for statistics, one without tags or
    tenant zeros in those blocks. Lone surrogates are encoded as three bytes each.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        scales = block_scales(spec)
        numbers = [scales["tag"], scales["tenant"], scales["stat"], TAG_CLIP, STATISTICS_CLIP]
        numbers += TOKEN_WEIGHTS.values()
        for _, centre, gain in STATISTICS_TABLE:
            numbers += [centre, gain]
        self._spec = spec
        self._d = spec.d
        self._numbers = np.array(numbers, np.float64)
        self._bases = [_basis(spec.seed, 1), _basis(spec.seed, 2)]

    @property
    def spec(self) -> FeatureSpec:
        """The spec of the contexts."""
        return self._spec

    def encode_batch(
        self,
        requests: Sequence[RequestLike],
        out: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Write the context of every request into `out`, and its input tokens into `tokens`.

        Parameters
        ----------
        requests : sequence of RequestLike
            n requests.
        out : ndarray of float32, shape (n, d), C-contiguous, writeable
            Row i becomes the context of request i: dimensionless, finite, ``x[0] == 1``.
        tokens : ndarray of float64, shape (n,), C-contiguous, writeable, optional
            Element i becomes the input tokens of request i: what the caller counted, else an estimate from
            words, letters, digits, signs and script.

        Raises
        ------
        ValueError
            If `out` or `tokens` has another shape, type or layout. Nothing is written then. No text of a
            request raises.
        """
        n = len(requests)
        _check("out", out, _FLOAT32, (n, self._d))
        if tokens is None:
            tokens = np.empty(n, np.float64)
        else:
            _check("tokens", tokens, _FLOAT64, (n,))
        self._encode(requests, out, tokens)

    def encode(self, request: RequestLike) -> npt.NDArray[np.float32]:
        """Return the context of one request: float32, shape (d,), equal to its row of any batch.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> request = SimpleNamespace(
        ...     prompt=None, messages=None, tenant="acme", tags=[], context=None, input_tokens=None
        ... )
        >>> Encoder(FeatureSpec(tags=0, tenant=1, statistics=0)).encode(request).tolist()
        [1.0, 1.0]
        """
        out = np.empty((1, self._d), np.float32)
        self._encode((request,), out, np.empty(1, np.float64))
        row: npt.NDArray[np.float32] = out[0]
        return row

    def _encode(
        self,
        requests: Sequence[RequestLike],
        out: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.float64],
    ) -> None:
        """Gather bytes and numbers of the requests, and run the kernel whenever enough text has piled up."""
        pieces: list[bytes] = []
        fields: list[int] = []
        put = pieces.append
        start = size = 0
        for i, request in enumerate(requests):
            prompt = request.prompt
            if prompt is not None:
                text = prompt.encode("utf-8", "surrogatepass")
                size += len(text)
                put(text)
                texts = turns = 1
            elif (messages := request.messages) is not None:
                texts, turns = len(messages), 0
                for message in messages:
                    text = message.content.encode("utf-8", "surrogatepass")
                    size += len(text)
                    put(text)
                    turns += message.role not in _SILENT
            else:
                texts, turns = -1, 0
            tags, tenant, counted = request.tags, request.tenant, request.input_tokens
            names = 2 * len(tags)
            for tag in tags:
                put(tag.encode("utf-8", "surrogatepass"))
            if tenant is not None:
                put(tenant.encode("utf-8", "surrogatepass"))
                names += 1
            if counted is None or not 0 <= counted < _MAX_TOKENS:
                counted = -1
            fields += (texts, turns, names, counted)
            if size >= _FLUSH_BYTES:
                self._run(pieces, fields, out[start : i + 1], tokens[start : i + 1])
                pieces.clear()
                fields.clear()
                start, size = i + 1, 0
        if start < len(requests):
            rest = slice(start, None)
            self._run(pieces, fields, out[rest] if start else out, tokens[rest] if start else tokens)

    def _run(
        self,
        pieces: list[bytes],
        fields: list[int],
        out: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.float64],
    ) -> None:
        """Hand requests to the kernel as one run of bytes and one of numbers."""
        put_together = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        data = np.frombuffer(put_together or b"\0", np.uint8)  # numpy refuses an empty buffer
        meta = np.array([*self._bases, *fields, *map(len, pieces)], np.int64)
        _kernels.encode_all(data, meta, self._numbers, self._spec.tags, self._spec.tenant, out, tokens)


def _basis(seed: int, salt: int) -> int:
    """Return the seeded start of a hash, as the signed number with the same 64 bits."""
    h = (seed + salt * 0x9E3779B97F4A7C15) & _U64
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _U64
    h ^= (h >> 31) ^ 0xCBF29CE484222325
    return h - (1 << 64) if h >> 63 else h


def _check(name: str, array: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array that the kernel could not fill."""
    if not isinstance(array, np.ndarray):
        given = type(array).__name__
        raise ValueError(f"{name}: expected a numpy array of {dtype}, got {given}")  # noqa: TRY004  one type for all
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name}: expected {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}"
        )
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError(f"{name}: expected a C-contiguous, writeable array")
