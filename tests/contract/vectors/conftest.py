"""An archive whose large scopes are promoted, and the truth that its searches are compared with."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row

from mneme import maintenance
from mneme.archival.v1 import archival_pb2 as pb
from mneme.archival.v1.archival_pb2_grpc import ArchivalServiceStub
from mneme.common.v1 import common_pb2
from mneme.embedding.v1 import embedding_pb2
from mneme.embedding.v1.embedding_pb2_grpc import EmbeddingServiceStub
from mneme.runtime import migrations, vectors_maintenance
from mneme.runtime.vectors_maintenance import Done
from mneme.settings import MaintenanceSettings
from tests.support.suite import Serve

DIMENSIONS = 256
SETTINGS = MaintenanceSettings(exact_rows=300, fold_rows=40, build_memory_mb=64)


@dataclass
class Archive:
    """Writes passages with vectors of its own, and knows which ones a search must find."""

    stub: Any
    embedding: Any
    space_id: str
    truth: dict[str, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict)
    """Vectors by scope and passage id."""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def vectors(self, count: int) -> np.ndarray[Any, Any]:
        """Random directions, in the precision in which they are stored."""
        made = self.random.normal(size=(count, DIMENSIONS))
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made.astype(np.float16).astype(np.float32)

    async def insert(self, owner: pb.PassageOwner, count: int, **passage: Any) -> list[str]:
        """Inserts passages; returns their ids."""
        made = self.vectors(count)
        items = [
            pb.PassageItem(passage=pb.Passage(text=f"passage {uuid.uuid4()}", **passage), vector=self.vector(one))
            for one in made
        ]
        ids: list[str] = []
        for start in range(0, count, 200):
            response = await self.stub.InsertPassages(
                pb.InsertPassagesRequest(request_id=str(uuid.uuid4()), owner=owner, items=items[start : start + 200])
            )
            ids += [one.passage_id for one in response.results]
        assert len(set(ids)) == count
        self.truth.setdefault(owner.agent_id or owner.knowledge_base_id, {}).update(zip(ids, made, strict=True))
        return ids

    async def delete(self, passage_id: str) -> None:
        """Deletes a passage."""
        await self.stub.DeletePassage(pb.DeletePassageRequest(request_id=str(uuid.uuid4()), passage_id=passage_id))
        for known in self.truth.values():
            known.pop(passage_id, None)

    async def move(self, passage_id: str) -> None:
        """Gives a passage another text, and so another vector."""
        text = f"passage {uuid.uuid4()}"
        await self.stub.UpdatePassage(
            pb.UpdatePassageRequest(request_id=str(uuid.uuid4()), passage_id=passage_id, passage=pb.Passage(text=text))
        )
        made = await self.embedding.Embed(
            embedding_pb2.EmbedRequest(texts=[text], input_type=embedding_pb2.INPUT_TYPE_DOCUMENT)
        )
        for known in self.truth.values():
            if passage_id in known:
                known[passage_id] = np.array(made.embeddings[0].values, dtype=np.float32)

    def vector(self, values: np.ndarray[Any, Any]) -> common_pb2.Vector:
        """A vector of the active space."""
        return common_pb2.Vector(values=values.tolist(), space_id=self.space_id)

    async def search(self, query: np.ndarray[Any, Any], *, limit: int = 10, **fields: Any) -> list[str]:
        """Ids that a search by meaning finds, best first."""
        fields.setdefault("scope", pb.SearchScope(agent_id="agent-1"))
        response = await self.stub.SearchPassages(
            pb.SearchPassagesRequest(mode=pb.SEARCH_MODE_SEMANTIC, vector=self.vector(query), limit=limit, **fields)
        )
        return [one.passage.passage_id for one in response.results]

    def nearest(self, query: np.ndarray[Any, Any], scopes: Sequence[str], *, limit: int = 10) -> list[str]:
        """What an exact search must find, by brute force."""
        known = {id_: vector for scope in scopes for id_, vector in self.truth.get(scope, {}).items()}
        cosines = {id_: float(vector @ query / np.linalg.norm(vector)) for id_, vector in known.items()}
        return sorted(cosines, key=lambda id_: -cosines[id_])[:limit]


def agent(name: str = "agent-1") -> pb.PassageOwner:
    """An agent as owner."""
    return pb.PassageOwner(agent_id=name)


@dataclass
class Owner:
    """The role that owns the schemas."""

    url: str

    async def maintain(self, settings: MaintenanceSettings = SETTINGS) -> Done:
        """One pass of the job."""
        return await vectors_maintenance.maintain(self.url, maintenance.CONTENTS, settings)

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """What a statement finds, with no tenant set."""
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(statement.encode(), values or None).fetchall()

    def as_tenant(self, tenant: str, statement: str) -> list[dict[str, Any]]:
        """What a statement finds among the rows of a tenant."""
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("SELECT set_config('app.tenant', %s, false)", (tenant,))
            return connection.execute(statement.encode()).fetchall()

    def tables(self, schema: str = "archival") -> list[dict[str, Any]]:
        """The side tables."""
        return self.rows(f"SELECT * FROM {schema}.vector_table ORDER BY number")


@pytest.fixture(scope="session")
def plain_template(new_database: Callable[[str | None], str]) -> str:
    """A migrated database whose owner is no superuser, so that row-level security binds the job too."""
    url = new_database(None)
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS keeper")
        admin.execute("CREATE ROLE keeper LOGIN CREATEROLE")
        admin.execute(f"ALTER DATABASE {name} OWNER TO keeper".encode())
        for role in [migrations.APP_ROLE, *map(migrations.role, migrations.SCHEMAS)]:
            admin.execute(f"GRANT {role} TO keeper WITH ADMIN OPTION".encode())
        admin.execute("CREATE EXTENSION vector")
    migrations.migrate(url.replace("://mneme@", "://keeper@"))
    return str(name)


@pytest.fixture
def owner_url(plain_template: str, new_database: Callable[[str | None], str]) -> str:
    """The role that owns the schemas, in a fresh migrated database."""
    return new_database(plain_template).replace("://mneme@", "://keeper@")


@pytest.fixture
def database_url(owner_url: str) -> str:
    """The application role, in that database."""
    return owner_url.replace("://keeper@", f"://{migrations.APP_ROLE}@")


@pytest.fixture
def owner(owner_url: str) -> Owner:
    """The role that owns the schemas."""
    return Owner(owner_url)


@pytest.fixture
async def archive(serve: Serve) -> Archive:
    """Archival with the offline embedding model."""
    suite = await serve("archival", "embedding")
    embedding = suite.stub(EmbeddingServiceStub)
    space = (await embedding.GetSpace(embedding_pb2.GetSpaceRequest())).space
    assert space.dimensions == DIMENSIONS
    return Archive(suite.stub(ArchivalServiceStub), embedding, space.space_id)
