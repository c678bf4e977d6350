"""``edgenas doctor``: what a board is, what is wrong with it, and what can be timed there."""

from edgenas.cli.command import Shown, Verb
from edgenas.cli.console import print_command, print_facts, print_json
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
    findings = [(f"{_SHOWN[finding.verdict]:<6}", str(finding)) for finding in diagnosis.findings]
    if not diagnosis.timed:
        findings.append(("note", f"edgenas can time nothing on {diagnosis.where} as it is"))
    # The next command stands at the end, where it is seen.
    print_facts(findings)
    for timed in diagnosis.timed:
        print_command("time    ", timed.command)


VERB = Verb(run=run, kinds=(DoctorRequest, Shown))
