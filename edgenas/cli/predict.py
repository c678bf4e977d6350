"""``edgenas predict``: the latency of a network on a device."""

from typing import TYPE_CHECKING

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import latency_words, print_json, print_line
from edgenas.latency.request import PredictRequest

if TYPE_CHECKING:
    from edgenas.delivery.predicting import Prediction


def run(request: PredictRequest, shown: Shown) -> None:
    """Predict the latency of a network on a device: a number, its bound, where they are from."""
    from edgenas.delivery.predicting import predict

    prediction = predict(request)
    if shown.json:
        print_json(prediction.to_json())
    else:
        _print_prediction(prediction)


def _print_prediction(prediction: "Prediction") -> None:
    from edgenas.delivery.predicting import ModelCosts

    network, target = prediction.network, prediction.target
    if isinstance(network, ModelCosts):
        print_line(f"{network.path} on {target}: {network}")
    else:
        print_line(f"{network} (id {network.id}) on {target}")
    words = latency_words(prediction.seconds, prediction.upper, provenance=prediction.provenance)
    print_line(
        f"{words} at {prediction.confidence:.0%} confidence ({prediction.bound}; from "
        f"{prediction.source})"
    )
    if (energy := prediction.energy) is not None:
        millijoules = f"{energy.joules * 1e3:.3g} mJ"
        how = "estimated" if energy.provenance == "estimated" else "predicted from measured numbers"
        print_line(f"{millijoules} {how}: {energy.watts:.3g} W ({energy.source})")
    for text in prediction.notes:
        print_line(f"note: {text}")


VERB = Verb(run=run, kinds=(PredictRequest, Shown))
