"""``edgenas import-ofa-table``: published once-for-all latency tables, read into one table."""

from edgenas.cli.command import Verb
from edgenas.cli.console import print_line, print_text
from edgenas.latency.request import ImportOfaTableRequest


def run(request: ImportOfaTableRequest) -> None:
    """Read published once-for-all latency tables.

    They become one latency table of edgenas.
    """
    from edgenas.basics.files import check_absent
    from edgenas.latency.ofa_tables import import_latency_tables
    from edgenas.latency.table_file import save_table

    check_absent(request.out)
    table = import_latency_tables(request.folder)
    save_table(table, request.out)
    print_line(f"table: {request.out}")
    print_text(f"{len(table.layers)} layers, {table.provenance}, {table.target}")


VERB = Verb(run=run, kinds=(ImportOfaTableRequest,))
