"""Where a server listens: a numeric address, three ports that nobody has, and a claim on them until it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from gesso_backend.errors import ServeError

LARGEST_PORT = 65535
NAME = re.compile(r"(?:[\w-]{1,63}\.)*(?=.*[^\W\d])[\w-]{1,63}\.?")  # of a machine; its last part is no number
ANYWHERE = {"0.0.0.0": ("0.0.0.0", "::", "127.0.0.1", "::1"), "::": ("0.0.0.0", "::", "127.0.0.1", "::1")}


@dataclass(frozen=True)
class Ports:
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def numeric(host: str) -> str:
    """The address that `host` names: Triton takes no names. IPv4 before IPv6. Raises ServeError."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    flags = 0 if NAME.fullmatch(bare) else socket.AI_NUMERICHOST  # no name server is asked for what is no name
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM, flags=flags) if bare else []
    except (OSError, ValueError):  # UnicodeError, for a label that is too long, is a ValueError
        found = []
    addresses = sorted((family, str(address[0]).partition("%")[0]) for family, *_, address in found)
    if not addresses:
        raise ServeError(f"--host: {host!r} is neither an address nor a name that has one")
    address = ipaddress.ip_address(addresses[0][1])
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_link_local:  # which interface? Triton's HTTP server cannot be told
            raise ServeError(f"--host: {host!r} is a link-local address, which Triton cannot listen on")
        address = address.ipv4_mapped or address
    return str(address)


def bracketed(address: str) -> str:
    """As it stands in a URL, before the port."""
    return f"[{address}]" if ":" in address else address


def for_triton(address: str) -> tuple[str, str]:
    """The address as Triton's HTTP servers take it, and as its gRPC server does."""
    return (f"ipv6:{address}" if ":" in address else address), bracketed(address)


@contextlib.contextmanager
def claimed(address: str, ports: Ports) -> Iterator[Ports]:
    """Hold the ports against other servers of ours; 0 stands for any that is free. Raises ServeError naming the option.

    Triton binds them only seconds later, so of two servers started together both would find them free. What is held is
    a name among the abstract sockets of this network namespace, which no folder's rights and no kill leave behind.
    """
    with contextlib.ExitStack() as held:
        taken: dict[str, int] = {}
        for name, asked in dataclasses.asdict(ports).items():
            if not 0 <= asked <= LARGEST_PORT:
                raise ServeError(f"--{name}-port: {asked} is not between 0 and {LARGEST_PORT}")
            if asked and asked in taken.values():
                other = next(other for other, port in taken.items() if port == asked)
                raise ServeError(f"--{name}-port: {asked} is the --{other}-port too")
            taken[name], claim = _take(address, name, asked)
            held.enter_context(claim)
        yield Ports(**taken)


def _take(address: str, name: str, asked: int) -> tuple[int, contextlib.ExitStack]:
    """A port that nobody has, and what holds it."""
    while True:
        port = _free(address, name, asked)
        with contextlib.ExitStack() as claims:
            try:
                for each in ANYWHERE.get(address, (address,)):
                    _claim(claims, each, name, port)
                return port, claims.pop_all()
            except ServeError:
                if asked:
                    raise  # of any port, one that is claimed and not bound yet is not it


def _free(address: str, name: str, port: int) -> int:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        where = f"{bracketed(address)}:{port}"
        raise ServeError(f"{where} cannot be bound ({error.strerror}); set --{name}-port") from None


def _claim(held: contextlib.ExitStack, address: str, name: str, port: int) -> None:
    claim = held.enter_context(socket.socket(socket.AF_UNIX))
    try:
        claim.bind(f"\0gesso-serve {address} {port}")
    except OSError:
        where = f"{bracketed(address)}:{port}"
        raise ServeError(f"{where} is another gesso-serve's; set --{name}-port") from None
