"""``edgenas report``: the HTML page of a bundle or of a training."""

from edgenas.cli.command import Verb
from edgenas.cli.console import print_line
from edgenas.delivery.export_request import ReportRequest


def run(request: ReportRequest) -> None:
    """Write the page of a bundle or a training anew.

    The page is one HTML file that needs nothing else.
    """
    from edgenas.delivery.reporting import report

    print_line(f"report: {report(request)}")


VERB = Verb(run=run, kinds=(ReportRequest,))
