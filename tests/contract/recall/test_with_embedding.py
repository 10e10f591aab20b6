"""Recall beside the real embedding service: credentials, spaces and vectors fit together."""

from __future__ import annotations

from mneme.common.v1 import common_pb2
from mneme.embedding.v1 import embedding_pb2
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.recall.v1 import recall_pb2 as pb
from mneme.recall.v1.recall_pb2_grpc import RecallServiceStub
from tests.contract.recall.conftest import Writer, texts, user
from tests.support.suite import Serve


async def test_messages_get_vectors_of_the_active_space(serve: Serve) -> None:
    suite = await serve("recall", "embedding")
    ann = Writer(suite.stub(RecallServiceStub, user="ann"))
    await ann.append(user("I am allergic to peanuts"), user("下周三去上海出差"), user("the engine of my car is loud"))
    await ann.indexed()
    found = await ann.search(semantic=pb.SemanticQuery(text="peanuts allergy"))
    assert (texts(found)[0], found.degraded) == ("I am allergic to peanuts", False)

    embedded = await suite.stub(EmbeddingServiceStub).Embed(
        embedding_pb2.EmbedRequest(texts=["car engine"], input_type=embedding_pb2.INPUT_TYPE_QUERY)
    )
    vector = common_pb2.Vector(values=embedded.embeddings[0].values, space_id=embedded.space_id)
    given = await ann.search(semantic=pb.SemanticQuery(vector=vector), limit=1)
    assert texts(given) == ["the engine of my car is loud"]
    both = await ann.search(hybrid=pb.HybridQuery(text="什么时候去上海？"), limit=1)
    assert texts(both) == ["下周三去上海出差"]
