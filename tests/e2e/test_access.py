"""What a client may not do to a server, whoever it is: gesso-serve keeps it to itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from multiprocessing import shared_memory

import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from e2e.server import Server

pytestmark = pytest.mark.e2e

REGION = {"key": "/gesso_nobodys", "offset": 0, "byte_size": 64}
CLOSED = {
    "the state of shared memory": ("v2/systemsharedmemory/status", None),
    "register shared memory": ("v2/systemsharedmemory/region/mine/register", REGION),
    "unregister shared memory": ("v2/systemsharedmemory/unregister", {}),
    "the state of a GPU's": ("v2/cudasharedmemory/status", None),
    "register a GPU's": ("v2/cudasharedmemory/region/mine/register", {}),
    "read the log's settings": ("v2/logging", None),
    "silence the log": ("v2/logging", {"log_error": False}),
    "read the trace's settings": ("v2/trace/setting", None),
    "write a trace": ("v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
    "list the repository": ("v2/repository/index", {}),
    "load a model": ("v2/repository/models/inpaint/load", {}),
    "unload a model": ("v2/repository/models/inpaint/unload", {}),
}


@pytest.mark.parametrize("what", CLOSED)
def test_http_keeps_the_operators_calls_from_clients(server: Server, what: str) -> None:
    """Guards against the chain of CVE-2025-23319, CVE-2025-23320 and CVE-2025-23334: an error text named a region of
    the server's shared memory, anyone could register it, and read another client's picture or write over it."""
    path, fields = CLOSED[what]
    body = None if fields is None else json.dumps(fields).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"http://{server.http}/{path}", body), timeout=30)
    with refused.value:
        assert refused.value.code == 403
        assert b"restricted" in refused.value.read()


def test_grpc_keeps_the_operators_calls_from_clients(server: Server) -> None:
    """The same by the other door, with a region of shared memory that really is there."""
    region = shared_memory.SharedMemory(create=True, size=64)
    try:
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            for call in (
                lambda: client.register_system_shared_memory("mine", f"/{region.name}", 64),
                client.get_system_shared_memory_status,
                client.unregister_system_shared_memory,
                client.get_cuda_shared_memory_status,
                client.get_log_settings,
                lambda: client.update_log_settings({"log_error": False}),
                client.get_trace_settings,
                lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
                client.get_model_repository_index,
                lambda: client.load_model("inpaint"),
                lambda: client.unload_model("inpaint"),
            ):
                with pytest.raises(InferenceServerException, match="restricted") as refused:
                    call()
                assert refused.value.status() == "StatusCode.UNAVAILABLE"
    finally:
        region.close()
        region.unlink()


def test_what_the_sdk_and_perf_analyzer_read_stays_open(server: Server) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("inpaint")
        assert client.get_model_metadata("inpaint").name == "inpaint"
        assert client.get_model_config("inpaint").config.name == "inpaint"
        assert {model.name for model in client.get_inference_statistics().model_stats} == {"inpaint", "inpaint_once"}
