"""The released once-for-all (OFA) networks, tables and predictors, read into this project's values.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
arXiv 1908.09791. Nothing of theirs is shipped: weights, tables and predictors are read where a user
has them, or fetched from where their authors publish them.
"""

from edgenas.ofa.accuracy import import_accuracy
from edgenas.ofa.download import ADDRESSES, address_of, download
from edgenas.ofa.tables import NOTE10, import_latency_tables
from edgenas.ofa.weights import import_supernet, released_name

__all__ = [
    "ADDRESSES",
    "NOTE10",
    "address_of",
    "download",
    "import_accuracy",
    "import_latency_tables",
    "import_supernet",
    "released_name",
]
