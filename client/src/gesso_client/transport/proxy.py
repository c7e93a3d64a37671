"""Which proxy the environment asks for. One rule, for both protocols, where each library has another.

`http_proxy` is for grpc:// and http://, `https_proxy` for grpcs:// and https://, in small letters before capitals. This
machine is never reached through one, and neither is a host of `no_proxy`: names, of which a host may be a part
(`example.com` has `a.example.com`), addresses and networks, each perhaps with a port, or `*`.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from gesso_client.errors import InvalidRequest

DEFAULT_PORT = 80


@dataclass(frozen=True)
class Proxy:
    host: str
    port: int
    variable: str  # of the environment
    url: str = field(repr=False)  # as gRPC takes it; it may have a password
    authorization: str | None = field(default=None, repr=False)  # the value of the header

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {host}:{self.port} ({self.variable} in the environment)"


def proxy_for(host: str, port: int, *, secure: bool, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """None: there is none for that host. Raises InvalidRequest for one that cannot be used."""
    environ = os.environ if environ is None else environ
    name = "https_proxy" if secure else "http_proxy"
    # Of a CGI program, HTTP_PROXY is a header that its caller sent.
    names = [name] if name == "http_proxy" and "REQUEST_METHOD" in environ else [name, name.upper()]
    variable = next((found for found in names if found in environ), name)
    value = environ.get(variable, "").strip()
    excepted = environ.get("no_proxy", environ.get("NO_PROXY", ""))
    if not value or is_loopback(host) or any(_covers(entry.strip(), host, port) for entry in excepted.split(",")):
        return None
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        if parts.scheme.lower() != "http" or not parts.hostname:
            raise ValueError("only http://HOST:PORT is known")
        found = parts.port or DEFAULT_PORT
    except ValueError as error:
        text = f"{variable} in the environment names a proxy that cannot be used: {error}; no_proxy={host} goes without"
        raise InvalidRequest(text, "url") from error
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Proxy(parts.hostname, found, variable, parts._replace(path="", query="").geturl(), authorization)


def is_loopback(host: str) -> bool:
    """Whether it is this machine: localhost, 127.0.0.0/8, ::1, and 0.0.0.0, which is connected to as one of them."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:  # 127.1, and other short forms that are connected to
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of no_proxy has the host."""
    if entry in ("", "*"):
        return entry == "*"
    address = _address(host)
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        return address is not None and address.version == network.version and address in network
    except ValueError:
        pass
    name, colon, its_port = entry.rpartition(":")
    if colon and its_port.isdigit():
        return int(its_port) == port and _covers(name, host, port)
    name, wanted = entry.lower().lstrip("*").strip("."), host.lower().rstrip(".")
    return wanted == name or wanted.endswith(f".{name}")
