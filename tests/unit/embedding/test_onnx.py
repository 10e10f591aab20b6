"""A model from files, in this process. The model here is a table of word vectors, written byte by byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mneme.embedding import provider as providers
from mneme.embedding.provider import Embedded, InputType, Provider, TooLong, Unfit
from mneme.settings import EmbeddingSettings, ModelsSettings

pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

WORDS = {"nothing": 0, "east": 1, "north": 2, "up": 3}
TABLE = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]], np.float32)
FLOAT, INT64 = 1, 7


def number(field: int, value: int) -> bytes:
    """A varint of a protobuf message; all here are below 128."""
    return bytes([field << 3, value])


def part(field: int, content: bytes | str) -> bytes:
    """A nested message, text or bytes of a protobuf message."""
    raw = content.encode() if isinstance(content, str) else content
    assert len(raw) < 1 << 14
    return bytes([field << 3 | 2, len(raw) & 0x7F | 0x80, len(raw) >> 7]) + raw


def tensor_of(name: str, kind: int, *shape: int | str) -> bytes:
    """onnx.ValueInfoProto: a named tensor whose dimensions are sizes or names."""
    dims = b"".join(part(1, part(2, size) if isinstance(size, str) else number(1, size)) for size in shape)
    return part(1, name) + part(2, part(1, number(1, kind) + part(2, dims)))


def word_vectors() -> bytes:
    """onnx.ModelProto: looks each token up in the table."""
    table = number(1, TABLE.shape[0]) + number(1, TABLE.shape[1]) + number(2, FLOAT)
    table += part(8, "table") + part(9, TABLE.tobytes())
    node = part(1, "table") + part(1, "input_ids") + part(2, "vectors") + part(4, "Gather")
    graph = part(1, node) + part(2, "words") + part(5, table)
    graph += part(11, tensor_of("input_ids", INT64, "texts", "tokens"))
    graph += part(12, tensor_of("vectors", FLOAT, "texts", "tokens", 3))
    return number(1, 8) + part(7, graph) + part(8, part(1, "") + number(2, 13))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one model, `compass`."""
    model = tmp_path / "compass"
    model.mkdir()
    (model / "model.onnx").write_bytes(word_vectors())
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="nothing"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4}))
    return tmp_path


def build(folder: Path, dimensions: int = 3) -> Provider:
    models = ModelsSettings(embedding_provider="onnx", embedding_model="compass", embedding_dimensions=dimensions)
    return providers.build(models, EmbeddingSettings(onnx_folder=folder))


@pytest.fixture
async def compass(folder: Path) -> AsyncIterator[Provider]:
    made = build(folder)
    yield made
    await made.close()


async def test_a_text_is_the_mean_of_its_own_tokens_whatever_stands_beside_it(compass: Provider) -> None:
    one, both, long = await compass.embed(["east", "east north", "up up up"], InputType.QUERY, truncate=False)
    for found, direction in ((one, [1, 0, 0]), (both, [0.5**0.5, 0.5**0.5, 0]), (long, [0, 0, 1])):
        assert isinstance(found, Embedded)
        np.testing.assert_allclose(found.vector, direction, atol=1e-6)
    assert isinstance(both, Embedded)
    assert (both.token_count, both.truncated) == (2, False)


async def test_the_first_token_stands_for_the_text_where_the_model_says_so(folder: Path) -> None:
    pooling = folder / "compass" / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    made = build(folder)
    (found,) = await made.embed(["east north"], InputType.DOCUMENT, truncate=False)
    assert isinstance(found, Embedded)
    np.testing.assert_allclose(found.vector, [1, 0, 0], atol=1e-6)
    await made.close()


async def test_a_long_text_is_reported_or_cut_and_an_empty_one_refused(compass: Provider) -> None:
    texts = ["east " * 5, "east", "nothing"]
    long, short, empty = await compass.embed(texts, InputType.DOCUMENT, truncate=False)
    assert long == TooLong(4, size=5)
    assert isinstance(short, Embedded)
    assert isinstance(empty, Unfit)
    (cut,) = await compass.embed(["east " * 5], InputType.DOCUMENT, truncate=True)
    assert isinstance(cut, Embedded)
    assert (cut.token_count, cut.truncated) == (4, True)


def test_what_is_missing_or_wrong_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embedding_dimensions: compass has 3"):
        build(folder, dimensions=4)
    with pytest.raises(ValueError, match=r"onnx_folder: .*model\.onnx is not there"):
        build(tmp_path / "elsewhere")
