"""Where a command and all it starts connect or send to, seen by the kernel: `python tests/quiet/trace.py COMMAND`."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = "connect,sendto,sendmsg,sendmmsg"
ADDRESS = re.compile(
    r"sin_port=htons\((\d+)\), sin_addr=inet_addr\(\"([^\"]+)\"\)"
    r"|sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, \"([^\"]+)\""
)
NAME_SERVER = 53  # also on the loopback: a resolver there asks on
SOCKET = re.compile(r'sun_path=@?"([^"]*)"')
RESOLVERS = re.compile(r"/systemd/resolve|/avahi-daemon")  # name look-ups by another door


@dataclass(frozen=True)
class Traced:
    """What a command did."""

    status: int
    output: str
    reached: frozenset[str]  # "address port", of this machine too
    outside: tuple[str, ...]  # the calls that leave this machine, or look up a name, as strace shows them


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Traced:
    """Run a command with all that it starts under strace, to its end."""
    with tempfile.TemporaryDirectory(prefix="gesso-trace-") as folder:
        log = Path(folder) / "log"
        strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-v", "-e", f"trace={CALLS}", "-e", "signal=none"]
        done = subprocess.run(
            [*strace, "-o", str(log), *command], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        lines = log.read_text(errors="replace").splitlines()
    reached = frozenset(address for line in lines for address in addresses(line))
    return Traced(done.returncode, done.stdout, reached, tuple(line for line in lines if is_outside(line)))


def addresses(line: str) -> list[str]:
    """Of one call: one of sendmmsg has several."""
    return [f"{found[2] or found[4]} {found[1] or found[3]}" for found in ADDRESS.finditer(line)]


def is_outside(line: str) -> bool:
    """Whether a call leaves this machine, or asks somebody for the address of a name."""
    for text in addresses(line):
        host, port = text.split()
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        if int(port) == NAME_SERVER or not (address.is_loopback or address.is_unspecified):
            return True
    found = SOCKET.search(line)
    return found is not None and RESOLVERS.search(found[1]) is not None


def main() -> int:
    """Run the command of the arguments; status 1 and the calls when one leaves this machine."""
    traced = run(sys.argv[1:])
    print(traced.output)
    for call in traced.outside:
        print(f"leaves this machine: {call}", file=sys.stderr)
    print(f"{len(traced.reached)} addresses reached, {len(traced.outside)} calls outside", file=sys.stderr)
    return traced.status or bool(traced.outside)


if __name__ == "__main__":
    sys.exit(main())
