"""For tests of programs that use this client: a server in memory, whose answers the test writes.

    transport = FakeTransport([Progress(1, 2, 0), Unavailable("the queue is full")], [Image(picture, 7, 0, {})])
    gesso = Client(transport=transport)

Everything but the network is real: what the client refuses, retries and raises, it does here too.
"""

from gesso_client.testing.answer import answer, response
from gesso_client.testing.description import description, parameters
from gesso_client.testing.transport import AsyncFakeTransport, FakeCall, FakeTransport, Step

__all__ = [
    "AsyncFakeTransport",
    "FakeCall",
    "FakeTransport",
    "Step",
    "answer",
    "description",
    "parameters",
    "response",
]
