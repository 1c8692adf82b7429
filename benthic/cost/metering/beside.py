"""Two meters on the same devices of one machine: each bills all of them, so this is said once.

Inside one metered row work side by side counts in proportion; without one nobody knows of the
other. What is held is known by kind and number alone: more of a kind than the machine has is the
sign. Rows of other hosts, work inside the row, and rows whose process is gone, are none of it.
"""

import socket

from benthic.cost.ledger.entries import Span
from benthic.cost.ledger.ledger import Ledger
from benthic.cost.ledger.processes import is_gone
from benthic.cost.metering.held import Holding


def beside(ledger: Ledger, span: Span, held: Holding) -> str:
    """The warning for work that no metered row is around; empty where there is no need of one."""
    here = socket.gethostname()
    rows = [
        row
        for row in ledger.open_rows()
        if row.host == here and row.parent is None and row.device == span.device
        if not is_gone(row.pid, row.process, row.heartbeat)
    ]
    there = held.gpus.installed if held.gpus else 1
    if not rows or sum(row.count for row in rows) + span.count <= there:
        return ""
    return (
        f"{rows[0].label} (row {rows[0].id[:8]}) holds {rows[0].count} x {span.device} of this "
        "machine too, and both bill what they hold: meter one shell around both, or give --count"
    )
