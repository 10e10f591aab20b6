"""How close two texts are by averaged word vectors: the weights that the `wordllama` package carries."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mneme.orchestrator.models.tokens import tokenizer

_MAX_TOKENS = 512


class WordVectors:
    """Word vectors of 256 dimensions, loaded when made (0.1 s, 33 MB)."""

    def __init__(self) -> None:
        package = find_spec("wordllama")
        if package is None or not package.submodule_search_locations:
            raise ModuleNotFoundError("the package 'wordllama' is missing: install mneme[server]")
        folder = Path(package.submodule_search_locations[0])
        tensors = load_file(folder / "weights" / "l2_supercat_256.safetensors")
        self._table: NDArray[np.float16] = next(iter(tensors.values()))
        self._tokenizer = tokenizer()
        self._embed = lru_cache(maxsize=4_096)(self._average)

    def cosine(self, one: str, other: str) -> float:
        """Similarity from 0 to 1; 0 where a text is empty."""
        return max(0.0, float(self._embed(one) @ self._embed(other)))

    def _average(self, text: str) -> NDArray[np.float32]:
        """float32[256] of length 1; all zero for an empty text."""
        pieces = self._tokenizer.encode(text, add_special_tokens=False).ids[:_MAX_TOKENS]
        if not pieces:
            return np.zeros(self._table.shape[1], np.float32)
        mean: NDArray[np.float32] = self._table[pieces].astype(np.float32).mean(axis=0)
        return mean / max(float(np.linalg.norm(mean)), 1e-9)
