"""``edgenas doctor``: what a board is, what is wrong with it, and what can be timed there."""

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_json, print_line
from edgenas.profiling.request import DoctorRequest

_SHOWN = {"ok": "OK", "change": "CHANGE", "note": "note"}


def run(request: DoctorRequest, shown: Shown) -> None:
    """Tell what a board is and what to change about it.

    Without --ssh the board is this machine. It also names the command that times what there.
    """
    from edgenas.profiling.doctor import doctor

    diagnosis = doctor(request)
    if shown.json:
        print_json(diagnosis.to_json())
        return
    for finding in diagnosis.findings:
        print_line(f"{_SHOWN[finding.verdict]:<7} {finding}")
    for timed in diagnosis.timed:
        print_line(f"{'time':<7} {timed.runtime}: {timed.command}")
    if not diagnosis.timed:
        print_line(f"{'note':<7} edgenas can time nothing on {diagnosis.where} as it is")


VERB = Verb(run=run, kinds=(DoctorRequest, Shown))
