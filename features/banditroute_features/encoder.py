"""Requests in, contexts out: the public face of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import _kernels
from . import _kernels_layout as layout
from .columns import CLIP, HOURS, SCALED, TAG_CLIP, TOKEN_WEIGHTS, block_scales
from .protocol import Message, RequestLike
from .spec import FeatureSpec
from .tame import names_of, numbers_of, tame

__all__ = ["Encoder"]

_AT_ONCE: Final = 256  # requests per run of the kernel; results do not depend on it
_SHORT: Final = 5  # objects per request when only the always-read attributes count
_FLOAT32: Final = np.dtype(np.float32)
_FLOAT64: Final = np.dtype(np.float64)
_U64: Final = (1 << 64) - 1
_ROLES: Final = {"system": "s", "developer": "s", "user": "u", "assistant": "a"}
_HASHED: Final = ("tag", "tenant", "session", "language", "cross", "char", "word", "embedding")
_EXTENDED: Final = ("session", "language", "hour", "cross", "numeric", "embedding", "context")

_NAMES: Final = ("session_id", "language", "hour", "max_output_tokens", "embedding", "context")
_MORE: Final = attrgetter(*_NAMES)  # in one step, of a request that has them all


class Encoder:
    """Turns requests into contexts of one spec.

    It may be shared by threads, and the context of a request does not depend on its neighbours in a batch. It
    keeps its workspace and nothing of a request.

    Parameters
    ----------
    spec : FeatureSpec
        The blocks and their widths.

    Notes
    -----
    Names (tags, tenant, session, language, crosses) are hashed by FNV-1a 64 over their UTF-8 bytes, started
    from ``0xcbf29ce484222325 ^ mix64(seed + salt * 0x9e3779b97f4a7c15)`` with a salt per block and finished
    by ``mix64``, the finaliser of splitmix64; the sign is minus where the lowest bit is set, the column is
    ``((h >> 32) * columns) >> 32``.

    Character n-grams are those of three to five UTF-8 bytes, ASCII in small letters, within a word and one
    space on either side (a word ends at any byte up to the space). The hash of b[0] … b[n-1], last byte
    first, is ``h = (k[5] + k[0] b[n-1] + k[1] b[n-2] + …) mod 2**16`` with odd 16-bit keys from the seed
    (multilinear hashing: Lemire and Kaser, The Computer Journal 57, 2014); the column is
    ``((h >> 10) * columns) >> 6``, the sign is minus where bit 9 of h is set.

    A request without any text (no `prompt` and no `messages`) has zeros for what is said of the text, one
    without tags or tenant zeros in those blocks. Lone surrogates are encoded as three bytes each.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._d = spec.d
        self._stride = layout.SLOTS if any(map(spec.width, _EXTENDED)) else _SHORT
        self._constants = _constants(spec)
        self._projection = _projection(spec)
        self._spare: list[_Workspace] = []
        self._nothing: list[Any] = [None] * (_AT_ONCE * layout.SLOTS)

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
        tokens = self._checked(n, out, tokens)
        work = self._spare.pop() if self._spare else _Workspace(self._constants)
        slots, stride = work.slots, self._stride
        try:
            if n <= _AT_ONCE:
                self._gather(requests, slots)
                self._run(slots, stride, work, out, tokens)
            else:
                for start in range(0, n, _AT_ONCE):
                    part = slice(start, start + _AT_ONCE)
                    self._gather(requests[part], slots)
                    self._run(slots, stride, work, out[part], tokens[part])
        finally:
            used = min(n, _AT_ONCE) * stride
            slots[:used] = self._nothing[:used]  # no text is kept
            self._spare.append(work)

    def encode(self, request: RequestLike) -> npt.NDArray[np.float32]:
        """Return the context of one request: float32, shape (d,), equal to its row of any batch.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> request = SimpleNamespace(prompt=None, messages=None, tenant="acme", tags=[], input_tokens=None)
        >>> Encoder(FeatureSpec(tags=0, tenant=1, statistics=0, scripts=0)).encode(request).tolist()
        [1.0, 1.0]
        """
        out = np.empty((1, self._d), np.float32)
        work = self._spare.pop() if self._spare else _Workspace(self._constants)
        try:
            self._gather((request,), work.slots)
            self._run(work.slots, self._stride, work, out, work.tokens)
        finally:
            work.slots[: self._stride] = self._nothing[: self._stride]
            self._spare.append(work)
        row: npt.NDArray[np.float32] = out[0]
        return row

    def encode_prompts(
        self,
        prompts: Sequence[str],
        out: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Write the contexts of requests that are nothing but a prompt; as `encode_batch`, and faster.

        Examples
        --------
        >>> out = np.empty((2, 32), np.float32)
        >>> Encoder(FeatureSpec()).encode_prompts(["One.", "Two!"], out)
        >>> out[:, 0].tolist()
        [1.0, 1.0]
        """
        if type(prompts) is not list:
            prompts = list(prompts)
        tokens = self._checked(len(prompts), out, tokens)
        work = self._spare.pop() if self._spare else _Workspace(self._constants)
        try:
            self._run(prompts, 1, work, out, tokens)
        finally:
            self._spare.append(work)

    def _run(self, slots: list[Any], stride: int, work: _Workspace, out: Any, tokens: Any) -> None:
        _kernels.encode_all(id(slots), stride, self._projection, work.bytes, out, tokens)

    def _checked(self, n: int, out: Any, tokens: Any) -> Any:
        _check("out", out, _FLOAT32, (n, self._d))
        if tokens is None:
            return np.empty(n, np.float64)
        _check("tokens", tokens, _FLOAT64, (n,))
        return tokens

    def _gather(self, requests: Sequence[RequestLike], slots: list[Any]) -> None:
        """Put what the kernel reads of every request into the list that it reads."""
        stride, at = self._stride, 0
        for request in requests:
            try:
                text: Any = request.prompt
                roles = None
                if text is None and (messages := request.messages) is not None:
                    text, roles = _chat(messages)
                tags: Any = request.tags
                if type(tags) is not tuple and tags is not None:
                    tags = names_of(tags)
                slots[at : at + 5] = text, roles, tags, request.tenant, request.input_tokens
            except (AttributeError, TypeError):
                request = tame(request)  # noqa: PLW2901  the same request, with what an encoder reads
                tags, text, roles = request.tags, request.prompt, None
                if text is None and request.messages is not None:
                    text, roles = _chat(request.messages)
                slots[at : at + 5] = text, roles, tags, request.tenant, request.input_tokens
            if stride > _SHORT:
                self._gather_more(request, tags, slots, at)
            at += stride

    def _gather_more(self, request: Any, tags: Any, slots: list[Any], at: int) -> None:
        """Put the attributes that only some blocks read into their places; missing ones are None."""
        spec = self._spec
        try:
            session, language, hour, most, embedding, context = _MORE(request)
        except AttributeError:
            session, language, hour, most, embedding, context = (
                getattr(request, name, None) for name in _NAMES
            )
        slots[at + 5 : at + 8] = session, language, hour
        if spec.cross:
            known = {
                "tag": tags[0] if tags else None,
                "tenant": request.tenant,
                "session": session,
                "language": language,
                "hour": None if hour is None else str(hour),
            }
            pairs = ((known[a], known[b]) for a, b in spec.crosses)
            crossed = tuple(f"{a}\x1f{b}" for a, b in pairs if a is not None and b is not None)
            slots[at + layout.CROSSES_AT] = crossed or None
        slots[at + 9] = most
        slots[at + 10] = numbers_of(embedding) if spec.embedding else None
        slots[at + 11] = numbers_of(context) if spec.context else None


class _Workspace:
    """Memory that one run of the kernel uses: its buffers with plan and numbers, and the list of objects it reads."""

    __slots__ = ("bytes", "slots", "tokens")

    def __init__(self, constants: npt.NDArray[np.uint8]) -> None:
        memory = np.zeros(layout.WORK_BYTES + 64, np.uint8)
        start = -memory.ctypes.data % 64  # vectors of 64 bytes that straddle cache lines take twice as long
        self.bytes = memory[start : start + layout.WORK_BYTES]
        self.bytes[:] = constants
        self.slots: list[Any] = [None] * (_AT_ONCE * layout.SLOTS)
        self.tokens = np.empty(1, np.float64)


def _chat(messages: Sequence[Message]) -> tuple[tuple[Any, ...], str]:
    """Return the texts of a chat and one letter per message for who speaks."""
    texts = tuple([message.content for message in messages])
    return texts, "".join([_ROLES.get(message.role, "o") for message in messages])


def _constants(spec: FeatureSpec) -> npt.NDArray[np.uint8]:
    """Return a workspace with what never changes: keys, plan and numbers of a spec."""
    work = np.zeros(layout.WORK_BYTES, np.uint8)
    keys = [(_mix64((spec.seed + (16 + i) * 0x9E3779B97F4A7C15) & _U64) & 0xFFFF) | 1 for i in range(6)]
    work[layout.KEYS_AT : layout.KEYS_AT + 12].view(np.uint16)[:] = keys
    work[layout.PLAN_AT : layout.NUMBERS_AT].view(np.int64)[:] = _plan(spec)
    work[layout.NUMBERS_AT :].view(np.float64)[:] = _numbers(spec)
    return work


def _plan(spec: FeatureSpec) -> list[int]:
    """Return the integers that the kernel reads of a spec, in its order."""
    widths = [spec.width(block) for block in layout.BLOCKS]
    starts = [1 + sum(widths[:i]) for i in range(len(widths) + 1)]
    salts = {block: i + 1 for i, block in enumerate(_HASHED)}
    bases = [_basis(spec.seed, salts[block]) if block in salts else 0 for block in layout.BLOCKS]
    grams = int(spec.chars > 0 or "stat.repetition" in spec.columns)
    order = [layout.RAW.index(row[0]) for table in SCALED.values() for row in table]
    return [*widths, *starts, *bases, grams, id(None), *order]


def _numbers(spec: FeatureSpec) -> list[float]:
    """Return the factors, clips, weights and scales that the kernel reads of a spec, in its order."""
    factors = block_scales(spec)
    numbers = [factors[block] for block in layout.BLOCKS]
    numbers += [TAG_CLIP, CLIP, CLIP, *TOKEN_WEIGHTS.values()]
    fitted = spec.fitted.scales if spec.fitted else {}
    scales = {}
    for block, table in SCALED.items():
        for name, centre, gain in table:
            scales[name] = fitted.get(f"{block}.{name}", (centre, gain))
    for name in layout.RAW:
        numbers += scales[name]
    for i in range(layout.MOST_CONTEXT):
        numbers += fitted.get(f"context.{i}", (0.0, 1.0))
    return [*numbers, *HOURS]


def _projection(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Return the learned projection with W mean in its last row, or a single row for the seeded one."""
    if not (spec.embedding and spec.fitted and spec.fitted.components):
        return np.zeros((1, 1))
    rows = spec.fitted.components[: spec.embedding]
    offsets = []
    for row in rows:
        offset = 0.0
        for mean, weight in zip(spec.fitted.mean, row, strict=True):
            offset += mean * weight
        offsets.append(offset)
    return np.ascontiguousarray(np.vstack([np.array(rows, np.float64).T, np.array(offsets)]))


def _mix64(h: int) -> int:
    """Return a number mixed by the finaliser of splitmix64."""
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _U64
    return h ^ (h >> 31)


def _basis(seed: int, salt: int) -> int:
    """Return the seeded start of a hash, as the signed number with the same 64 bits."""
    h = _mix64((seed + salt * 0x9E3779B97F4A7C15) & _U64) ^ 0xCBF29CE484222325
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
