"""An exported sentence model in this process, from files that the operator put there: nothing is downloaded.

A model is a folder named after it, below the setting `embedding.onnx_folder`: `model.onnx` and `tokenizer.json`, as
Hugging Face's optimum exports them, with `tokenizer_config.json` (for the longest text) and `1_Pooling/config.json`
(whether the first token or the mean of all stands for the text; the mean without it) where the model has them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mneme.embedding.provider import Embedded, InputType, Model, Result, TooLong, Unfit
from mneme.embedding.vectors import unit
from mneme.settings import EmbeddingSettings, ModelsSettings

_BATCH_SIZE = 16


class OnnxProvider:
    """One model in this process. It knows no difference between questions and documents."""

    def __init__(self, model: Model, session: Any, tokenizer: Tokenizer, *, first_token: bool) -> None:
        """Args:
        model: What is known of it.
        session: An onnxruntime session with inputs `input_ids` and perhaps `attention_mask` and `token_type_ids`,
            whose first output is float32[texts, tokens, dimensions], or float32[texts, dimensions] already pooled.
        tokenizer: Of the model, without padding and truncation.
        first_token: The first token's vector stands for the text, instead of the mean of all.
        """
        self._model = model
        self._session = session
        self._inputs = {node.name for node in session.get_inputs()}
        self._tokenizer = tokenizer
        self._first_token = first_token
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnx-embed")

    @property
    def model(self) -> Model:
        """The model behind it."""
        return self._model

    async def embed(self, texts: Sequence[str], input_type: InputType, *, truncate: bool) -> list[Result]:
        """Returns an outcome for each text, in order; see the port."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, texts, truncate)

    async def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, texts: Sequence[str], truncate: bool) -> list[Result]:
        limit = self._model.max_tokens
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        cut = [self._cut(ids) for ids in tokens]
        fits = [truncate or len(ids) <= limit for ids in tokens]
        rows = iter(self._run([ids for ids, fit in zip(cut, fits, strict=True) if fit]))
        results: list[Result] = []
        for ids, kept, fit in zip(tokens, cut, fits, strict=True):
            if not fit:
                results.append(TooLong(limit, size=len(ids)))
                continue
            vector = unit(next(rows), self._model.dimensions)
            if vector is None:
                results.append(Unfit("it holds nothing that can be embedded"))
                continue
            results.append(Embedded(vector, len(kept), truncated=len(ids) > limit))
        return results

    def _cut(self, ids: list[int]) -> list[int]:
        """At most as many tokens as the model takes; the last one, which ends a text, stays."""
        limit = self._model.max_tokens
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    def _run(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """float32[texts, dimensions], of any length."""
        if not tokens:
            return np.empty((0, self._model.dimensions), np.float32)
        shape = len(tokens), max(1, *map(len, tokens))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, each in enumerate(tokens):
            ids[row, : len(each)], mask[row, : len(each)] = each, 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}
        found: NDArray[np.float32] = self._session.run(
            None, {name: given for name, given in inputs.items() if name in self._inputs}
        )[0]
        if found.ndim == 2:
            return found
        if self._first_token:
            return found[:, 0]
        sums = (found * mask[:, :, None]).sum(axis=1)
        means: NDArray[np.float32] = sums / np.maximum(mask.sum(axis=1), 1)[:, None]
        return means


def build(models: ModelsSettings, settings: EmbeddingSettings) -> OnnxProvider:
    """Returns the provider with its model loaded.

    Raises:
        ValueError: The folder does not hold the model, or its vectors have another size than the settings say.
    """
    if settings.onnx_folder is None:
        raise ValueError("embedding.onnx_folder: needed for embedding_provider 'onnx'")
    folder = settings.onnx_folder / models.embedding_model
    for name in ("model.onnx", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ValueError(f"embedding.onnx_folder: {folder / name} is not there")
    session = onnxruntime.InferenceSession(  # type: ignore[attr-defined]
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    dimensions = session.get_outputs()[0].shape[-1]
    if isinstance(dimensions, int) and dimensions != models.embedding_dimensions:
        raise ValueError(f"models.embedding_dimensions: {models.embedding_model} has {dimensions}")
    tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    longest = min(settings.max_tokens, _described(folder / "tokenizer_config.json").get("model_max_length", 512))
    pooling = _described(folder / "1_Pooling" / "config.json")
    model = Model("onnx", models.embedding_model, models.embedding_dimensions, int(longest), _BATCH_SIZE, local=True)
    first_token = bool(pooling.get("pooling_mode_cls_token", False))
    return OnnxProvider(model, session, tokenizer, first_token=first_token)


def _described(file: Path) -> dict[str, Any]:
    """What a file of the model says; nothing where it has none."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content
