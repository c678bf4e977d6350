"""``edgenas fit-accuracy``: the accuracy predictor of a supernet, on your images."""

from edgenas.accuracy.request import FitAccuracyRequest
from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import note, print_accuracy_fit, print_json, steps


def run(request: FitAccuracyRequest, shown: Shown) -> None:
    """Fit the accuracy predictor of a supernet.

    Networks of it are evaluated on your images, which are divided as the training divided them:
    what it learnt from calibrates batch norms, and accuracy is measured on the rest. For an
    imported supernet, accuracy is measured on a tenth of every class.
    """
    from edgenas.delivery.fitting import fit_accuracy

    with steps() as progress:
        fitted = fit_accuracy(request, progress=progress, say=note)
    if shown.json:
        print_json(fitted.to_json())
    else:
        print_accuracy_fit(fitted.predictor)


VERB = Verb(run=run, kinds=(FitAccuracyRequest, Shown))
