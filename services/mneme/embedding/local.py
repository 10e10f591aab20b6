"""The embedded default: `wordllama`, word vectors inside its wheel, about 30 us a short text, no network.

It averages the vectors of a text's tokens, so it knows words and no meaning: good enough to try things out
and to test with. The package's own batch method pads all texts to the longest (a long text beside 255 short
ones would take gigabytes), so the average is taken text by text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import wordllama
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mneme.embedding.provider import Embedded, InputType, Model, Result, TooLong, Unfit
from mneme.embedding.vectors import unit
from mneme.settings import EmbeddingSettings, ModelsSettings

_CONFIG = "l2_supercat"
_DIMENSIONS = 256
_MAX_TOKENS = 8192
_BATCH_SIZE = 64
# About 2 ms of work, above which it moves to a thread.
_INLINE_CHARS = 1500


class WordLlamaProvider:
    """The model in this process."""

    def __init__(self, tokenizer: Tokenizer, table: NDArray[np.float32]) -> None:
        """Args:
        tokenizer: Of the model, without padding.
        table: float32[vocabulary, 256], a row a token.
        """
        self._tokenizer = tokenizer
        self._table = table
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wordllama")
        self._model = Model("wordllama", "wordllama", _DIMENSIONS, _MAX_TOKENS, _BATCH_SIZE, local=True)

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        """Returns an outcome for each text, in order; see the port."""
        if sum(map(len, texts)) <= _INLINE_CHARS:
            return self._embed(texts, truncate)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._embed, texts, truncate)

    async def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: Sequence[str], truncate: bool) -> list[Result]:
        return [self._embed_one(text, truncate) for text in texts]

    def _embed_one(self, text: str, truncate: bool) -> Result:
        tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
        if len(tokens) > _MAX_TOKENS and not truncate:
            return TooLong(_MAX_TOKENS, size=len(tokens))
        kept = np.asarray(tokens[:_MAX_TOKENS], dtype=np.int64)
        vector = unit(self._table[kept].mean(axis=0), _DIMENSIONS) if kept.size else None
        if vector is None:
            return Unfit("it holds nothing that can be embedded")
        return Embedded(vector, kept.size, truncated=len(tokens) > _MAX_TOKENS)


def build(models: ModelsSettings, _settings: EmbeddingSettings) -> WordLlamaProvider:
    """Returns the provider with its weights loaded, about 0.2 s."""
    if (models.embedding_model, models.embedding_dimensions) != ("wordllama", _DIMENSIONS):
        raise ValueError(
            "models: embedding_provider 'wordllama' needs embedding_model 'wordllama' and "
            f"embedding_dimensions {_DIMENSIONS}"
        )
    # The package looks for its own tokenizer only in a cache folder, and downloads it otherwise.
    folder = Path(wordllama.__file__).parent
    loaded = wordllama.WordLlama.load(_CONFIG, cache_dir=folder, dim=_DIMENSIONS, disable_download=True)
    loaded.tokenizer.no_padding()
    return WordLlamaProvider(loaded.tokenizer, loaded.embedding)
