"""Transports, chosen by URL. They are imported when they are used: gRPC alone costs more than the rest together."""

from __future__ import annotations

from gesso_client.transport.address import DEFAULT_URL, Address
from gesso_client.transport.contract import AsyncTransport, Transport

__all__ = ["DEFAULT_URL", "Address", "connect", "connect_async"]


def connect(url: str) -> Transport:
    """Nothing is sent yet. Raises InvalidRequest for a URL that cannot be one."""
    address = Address.parse(url)
    if "http" in address.scheme:
        from gesso_client.transport.http_sync import HttpTransport

        return HttpTransport(address)
    from gesso_client.transport.grpc_sync import GrpcTransport

    return GrpcTransport(address)


def connect_async(url: str) -> AsyncTransport:
    """connect, for asyncio."""
    address = Address.parse(url)
    if "http" in address.scheme:
        from gesso_client.transport.http_sync import HttpTransport
        from gesso_client.transport.threaded import ThreadedTransport

        return ThreadedTransport(HttpTransport(address))
    from gesso_client.transport.grpc_async import GrpcAsyncTransport

    return GrpcAsyncTransport(address)
