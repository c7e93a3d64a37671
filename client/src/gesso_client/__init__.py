"""A thin client for gesso inpainting servers: numpy, Pillow and tritonclient, never torch."""

from gesso_client.async_client import AsyncClient
from gesso_client.async_job import AsyncJob
from gesso_client.client import Client
from gesso_client.errors import (
    Cancelled,
    ConnectionFailed,
    DamagedPicture,
    DeadlineExceeded,
    GessoError,
    InvalidRequest,
    NotFound,
    ServerError,
    Unavailable,
    Unsupported,
)
from gesso_client.events import Event, Image, Preview, Progress
from gesso_client.job import Job
from gesso_client.models import Limits, ModelInfo
from gesso_client.parameter import Parameter
from gesso_client.result import Result

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "Cancelled",
    "Client",
    "ConnectionFailed",
    "DamagedPicture",
    "DeadlineExceeded",
    "Event",
    "GessoError",
    "Image",
    "InvalidRequest",
    "Job",
    "Limits",
    "ModelInfo",
    "NotFound",
    "Parameter",
    "Preview",
    "Progress",
    "Result",
    "ServerError",
    "Unavailable",
    "Unsupported",
]
