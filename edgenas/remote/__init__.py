"""Boards across the network, timed over the OpenSSH client of the user.

`Board` is a clock like `edgenas.measure`: `edgenas.board` is sent to the board and run there, units
are sent in batches, and every measurement comes back as soon as it is known. When the link drops it
is made anew, and only what is missing is sent again.
"""

from edgenas.remote.clock import Board
from edgenas.remote.link import COMMAND, LinkError, Place
from edgenas.remote.reach import clock_at_hand, clock_of, timed_target

__all__ = ["COMMAND", "Board", "LinkError", "Place", "clock_at_hand", "clock_of", "timed_target"]
