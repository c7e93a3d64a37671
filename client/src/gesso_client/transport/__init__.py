"""Transports, chosen by URL. They are imported when they are used: gRPC alone costs more than the rest together."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from gesso_client.errors import InvalidRequest
from gesso_client.transport.contract import AsyncTransport, Transport

DEFAULT_URL = "localhost:8001"
DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 8000, "https": 443}


@dataclass(frozen=True)
class Address:
    scheme: str  # grpc, grpcs, http or https
    host: str
    port: int
    path: str = ""  # HTTP only: a prefix in front of Triton's own paths

    @property
    def secure(self) -> bool:
        return self.scheme in ("grpcs", "https")

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InvalidRequest naming `url`."""
        scheme, found, rest = url.partition("://")
        scheme, rest = (scheme.lower(), rest) if found else ("grpc", url)
        if scheme not in DEFAULT_PORTS:
            raise InvalidRequest(f"{url!r} is not HOST:PORT (gRPC), grpcs://, http:// or https://", "url")
        try:
            parts = urlsplit(f"//{rest}")
            port = parts.port or DEFAULT_PORTS[scheme]
        except ValueError as error:
            raise InvalidRequest(f"{url!r}: {error}", "url") from error
        path = parts.path.rstrip("/")
        if not parts.hostname or parts.query or parts.fragment or parts.username or (path and "http" not in scheme):
            raise InvalidRequest(f"{url!r} is not HOST:PORT", "url")
        return cls(scheme, parts.hostname, port, path)


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
