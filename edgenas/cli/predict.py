"""``edgenas predict``: the latency of a network on a device."""

from typing import TYPE_CHECKING

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import latency_words, print_facts, print_json
from edgenas.latency.request import PredictRequest

if TYPE_CHECKING:
    from edgenas.delivery.predicting import Prediction


def run(request: PredictRequest, shown: Shown) -> None:
    """Predict the latency of a network on a device.

    It prints a number, its bound, and where both come from.
    """
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
        facts = [("network", f"{network.path}: {network}")]
    else:
        facts = [("network", f"{network} (id {network.id})")]
    words = latency_words(prediction.seconds, prediction.upper, provenance=prediction.provenance)
    facts += [
        ("target", str(target)),
        ("latency", f"{words} at {prediction.confidence:.0%} confidence"),
        ("rests on", f"{prediction.bound}; from {prediction.source}"),
    ]
    if (energy := prediction.energy) is not None:
        millijoules = f"{energy.joules * 1e3:.3g} mJ"
        how = "estimated" if energy.provenance == "estimated" else "predicted from measured numbers"
        facts.append(("energy", f"{millijoules} {how}: {energy.watts:.3g} W ({energy.source})"))
    print_facts([*facts, *(("note", text) for text in prediction.notes)])


VERB = Verb(run=run, kinds=(PredictRequest, Shown))
