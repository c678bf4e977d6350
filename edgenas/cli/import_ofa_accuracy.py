"""``edgenas import-ofa-accuracy``: a published once-for-all accuracy predictor."""

from edgenas.accuracy.request import ImportOfaAccuracyRequest
from edgenas.cli.command import Verb
from edgenas.cli.console import print_line, print_text


def run(request: ImportOfaAccuracyRequest) -> None:
    """Read a published once-for-all accuracy predictor."""
    from edgenas.basics.files import check_absent
    from edgenas.space.presets import load_space

    space = load_space(request.space)
    check_absent(request.out)
    from edgenas.accuracy.ofa_predictor import import_accuracy

    predictor = import_accuracy(request.file, space=space)
    predictor.save(request.out)
    print_line(f"accuracy predictor: {request.out}")
    print_text(predictor.source)


VERB = Verb(run=run, kinds=(ImportOfaAccuracyRequest,))
