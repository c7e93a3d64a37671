"""The servers of this folder: one for the session, and `serve` for tests that need their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import bundles
from e2e.server import Server, ServerFailed

Serve = Callable[..., AbstractContextManager[Server]]

RUNNING = pytest.StashKey[list[Server]]()


@pytest.fixture(scope="session")
def tiny_bundle(gesso_bundles: Path) -> Path:
    """9 channels, random weights, 256 px native, VAE factor 8."""
    return bundles.export(gesso_bundles)[1]


@pytest.fixture(scope="session")
def plain_bundle(gesso_bundles: Path) -> Path:
    """The same with 4 channels: a plain text-to-image model."""
    return bundles.export(gesso_bundles, in_channels=4)[1]


@pytest.fixture(scope="session")
def little_world(gesso_bundles: Path) -> Path:
    """The model that gesso ships: what it paints means something."""
    return bundles.export_little_world(gesso_bundles)


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Serve:
    """serve(bundle, *arguments, names={}): a context manager giving a ready Server, of which nothing is left after."""
    running = pytestconfig.stash.setdefault(RUNNING, [])

    @contextmanager
    def start(
        bundle: Path | None,
        *arguments: str,
        names: Mapping[str, Path] | None = None,
        python: Path | None = None,
    ) -> Iterator[Server]:
        log = tmp_path_factory.mktemp("serve") / "gesso-serve.log"
        server = Server(log, bundle, *arguments, names=names, python=python)
        running.append(server)
        try:
            yield server.wait_ready()
            if server.process.poll() is None:
                server.stop()
        finally:
            server.kill()
            running.remove(server)

    return start


@pytest.fixture(scope="session")
def server(serve: Serve, tiny_bundle: Path) -> Iterator[Server]:
    """The one server that most tests share, of `tiny_bundle`.

    It may drain for 3 s only: Triton 24.10 loses count of a gRPC stream that is cancelled while it ends, and when it
    has seen one it stops only when its patience is over.
    """
    with serve(tiny_bundle, "--drain-seconds=3") as shared:
        yield shared


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may cost the shared server one of its processes, or leave work in it."""
    if "server" not in request.fixturenames:
        yield
        return
    shared: Server = request.getfixturevalue("server")
    before = shared.stubs()
    yield
    shared.until(lambda: shared.metric("gesso_active_rows") + shared.metric("gesso_queue_depth") == 0)
    if shared.stubs() != before:
        raise ServerFailed(f"a process of the shared server has died\n{shared.tail()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure shows what the servers said."""
    report = yield
    if report.failed:
        for server in item.config.stash.get(RUNNING, []):
            report.sections.append(("gesso-serve", server.tail()))
    return report
