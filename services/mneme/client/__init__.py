"""The Python client of Mneme: typed, asyncio first, with a blocking twin.

    async with Client.connect("localhost:7600", token=token) as client:
        async for event in client.ask(conversation_id, "What must I not eat?"):
            if event.HasField("assistant_message"):
                print(event.assistant_message.text)

Every service's stub is an attribute (`client.agents`, `client.core_memory`, `client.recall`, `client.archival`,
`client.embedding`, `client.semantic_cache`), so whatever the contracts offer can be called. A failed call raises
`Error`, whose `reason_name` is one of the catalogue in `mneme/errors/v1`.
"""

from mneme.client.client import Client, SyncClient, new_request_id
from mneme.client.connection import Connection
from mneme.runtime.errors import Error, Violation

__all__ = ["Client", "Connection", "Error", "SyncClient", "Violation", "new_request_id"]
