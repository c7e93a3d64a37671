"""A network as a Triton Python model, where the server has neither the TensorRT nor the ONNX Runtime backend.

The shim that gesso-serve writes beside its config gives it Triton's API, which only models can import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso_backend.engines.engine import load
from gesso_backend.errors import as_request_error
from gesso_backend.kinds import parse_bundle
from gesso_backend.model import manifest
from gesso_backend.settings import Settings
from gesso_backend.triton.given import model_parameters, version_folder
from gesso_backend.triton.parent import end_with_parent

NETWORK = "network"  # model parameter: which of the bundle's networks this is
SHIM = """import triton_python_backend_utils as pb_utils
from gesso_backend.triton.network import network_model

TritonPythonModel = network_model(pb_utils)
"""


def network_model(pb_utils: Any) -> type:
    """The model class over `triton_python_backend_utils`."""

    class NetworkModel:
        def initialize(self, args: Mapping[str, str]) -> None:
            end_with_parent()
            parameters = model_parameters(args)
            network = parameters.pop(NETWORK)
            if args.get("model_instance_kind") == "GPU":
                parameters["device"] = args["model_instance_device_id"]
            settings = Settings.of_model(parameters, version_folder(args))
            folder = Path(settings.bundle)
            # The model that is served has hashed every file when this one is asked; here the manifest is enough.
            bundle = parse_bundle(manifest.read(folder))
            one = dataclasses.replace(bundle, networks={network: bundle.networks[network]})
            self._engine = load(settings, folder, one).engine(network)

        def execute(self, requests: list[Any]) -> list[Any]:
            return [self._answer(request) for request in requests]

        def _answer(self, request: Any) -> Any:
            try:
                outputs = self._engine(**{tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
            except Exception as error:  # whatever it is, it is this request's
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(as_request_error(error))))
            return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])

    return NetworkModel
