"""Hardware-aware deployment optimizer for edge targets.

Each verb of the command line is a function here, and takes the request of that verb::

    edgenas.specialize(edgenas.SpecializeRequest(device="jetson", latency="3ms"))

Functions and requests are imported when they are first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime 1.29 and later tells Microsoft about models, their names and hashes among it, unless
# this is set before it is loaded; it also writes to the home folder and starts threads for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgenas.accuracy.request import FitAccuracyRequest
    from edgenas.basics.errors import EdgenasError
    from edgenas.bundle.request import VerifyRequest
    from edgenas.delivery.export_request import ExportRequest
    from edgenas.delivery.exporting import export
    from edgenas.delivery.fitting import fit_accuracy
    from edgenas.delivery.front_request import ParetoRequest
    from edgenas.delivery.front_search import search_fronts as pareto
    from edgenas.delivery.loading import load
    from edgenas.delivery.predicting import predict
    from edgenas.delivery.request import SpecializeRequest
    from edgenas.delivery.run import specialize
    from edgenas.delivery.searching import search
    from edgenas.delivery.supernets import train
    from edgenas.delivery.verifying import verify
    from edgenas.latency.estimating import estimate
    from edgenas.latency.request import EstimateRequest, PredictRequest
    from edgenas.model.importing import import_weights
    from edgenas.model.request import ImportRequest
    from edgenas.profiling.answering import bench, check, profile
    from edgenas.profiling.doctor import doctor
    from edgenas.profiling.request import (
        BenchRequest,
        CheckRequest,
        DoctorRequest,
        ProfileRequest,
    )
    from edgenas.strategies.request import SearchRequest
    from edgenas.training.request import TrainRequest

__all__ = [
    "BenchRequest",
    "CheckRequest",
    "DoctorRequest",
    "EdgenasError",
    "EstimateRequest",
    "ExportRequest",
    "FitAccuracyRequest",
    "ImportRequest",
    "ParetoRequest",
    "PredictRequest",
    "ProfileRequest",
    "SearchRequest",
    "SpecializeRequest",
    "TrainRequest",
    "VerifyRequest",
    "bench",
    "check",
    "doctor",
    "estimate",
    "export",
    "fit_accuracy",
    "import_weights",
    "load",
    "pareto",
    "predict",
    "profile",
    "search",
    "specialize",
    "train",
    "verify",
]

# Where each name is defined.
_PLACES = {
    "BenchRequest": "edgenas.profiling.request:BenchRequest",
    "CheckRequest": "edgenas.profiling.request:CheckRequest",
    "DoctorRequest": "edgenas.profiling.request:DoctorRequest",
    "EdgenasError": "edgenas.basics.errors:EdgenasError",
    "EstimateRequest": "edgenas.latency.request:EstimateRequest",
    "ExportRequest": "edgenas.delivery.export_request:ExportRequest",
    "FitAccuracyRequest": "edgenas.accuracy.request:FitAccuracyRequest",
    "ImportRequest": "edgenas.model.request:ImportRequest",
    "ParetoRequest": "edgenas.delivery.front_request:ParetoRequest",
    "PredictRequest": "edgenas.latency.request:PredictRequest",
    "ProfileRequest": "edgenas.profiling.request:ProfileRequest",
    "SearchRequest": "edgenas.strategies.request:SearchRequest",
    "SpecializeRequest": "edgenas.delivery.request:SpecializeRequest",
    "TrainRequest": "edgenas.training.request:TrainRequest",
    "VerifyRequest": "edgenas.bundle.request:VerifyRequest",
    "bench": "edgenas.profiling.answering:bench",
    "check": "edgenas.profiling.answering:check",
    "doctor": "edgenas.profiling.doctor:doctor",
    "estimate": "edgenas.latency.estimating:estimate",
    "export": "edgenas.delivery.exporting:export",
    "fit_accuracy": "edgenas.delivery.fitting:fit_accuracy",
    "import_weights": "edgenas.model.importing:import_weights",
    "load": "edgenas.delivery.loading:load",
    "pareto": "edgenas.delivery.front_search:search_fronts",
    "predict": "edgenas.delivery.predicting:predict",
    "profile": "edgenas.profiling.answering:profile",
    "search": "edgenas.delivery.searching:search",
    "specialize": "edgenas.delivery.run:specialize",
    "train": "edgenas.delivery.supernets:train",
    "verify": "edgenas.delivery.verifying:verify",
}


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _PLACES:
        raise AttributeError(f"module 'edgenas' has no attribute {name!r}")
    module, _, inside = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(module), inside)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, and the modules that are imported."""
    return sorted({*globals(), *__all__})
