"""Where a server is: its URL, and the proxy that the environment puts in between."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from gesso_client.errors import InvalidRequest, shortened
from gesso_client.transport.proxy import Proxy, proxy_for

DEFAULT_URL = "localhost:8001"
DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 8000, "https": 443}


@dataclass(frozen=True)
class Address:
    scheme: str  # grpc, grpcs, http or https
    host: str
    port: int
    path: str = ""  # HTTP only: a prefix in front of Triton's own paths
    proxy: Proxy | None = None

    @property
    def secure(self) -> bool:
        return self.scheme in ("grpcs", "https")

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def where(self) -> str:
        """As errors name it."""
        return self.target if self.proxy is None else f"{self.target} through {self.proxy}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InvalidRequest naming `url`."""
        given = shortened(url)
        if not isinstance(url, str):
            raise InvalidRequest(f"{given} is not HOST:PORT", "url")
        scheme, found, rest = url.partition("://")
        scheme, rest = (scheme.lower(), rest) if found else ("grpc", url)
        if scheme not in DEFAULT_PORTS:
            raise InvalidRequest(f"{given} is not HOST:PORT (gRPC), grpcs://, http:// or https://", "url")
        try:
            parts = urlsplit(f"//{rest}")
            port = DEFAULT_PORTS[scheme] if parts.port is None else parts.port
        except ValueError as error:
            raise InvalidRequest(f"{given}: {error}", "url") from error
        if port == 0:
            raise InvalidRequest(f"{given}: ports are 1 to 65535", "url")
        path, host = parts.path.rstrip("/"), parts.hostname
        if not host or parts.query or parts.fragment or parts.username or (path and "http" not in scheme):
            raise InvalidRequest(f"{given} is not HOST:PORT", "url")
        if any(letter.isspace() for letter in host):
            raise InvalidRequest(f"{given} has a space in its host", "url")
        return cls(scheme, host, port, path, proxy_for(host, port, secure=scheme in ("grpcs", "https")))
