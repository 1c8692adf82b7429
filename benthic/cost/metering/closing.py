"""The end of a bill: into the ledger, or beside it where the ledger does not take it.

What was used is read before, so however long the ledger keeps its writers waiting, that is no part
of the bill.
"""

from pathlib import Path

from benthic.cost.ledger.ledger import Ledger, LedgerError
from benthic.cost.ledger.pending import End, leave


def close_row(ledger: Path, end: End) -> str:
    """Close the row for good; what else became of its end, in a sentence, empty where it is there.

    Raises LedgerError where the end could be written nowhere.
    """
    try:
        with Ledger(ledger) as opened:
            opened.finish(
                end.id, end.usage, end.status, exit_code=end.exit_code, note=end.note, at=end.at
            )
    except LedgerError as failure:
        try:
            file = leave(ledger, end)
        except OSError as error:
            raise LedgerError(f"{failure}; nor beside it ({error.strerror})") from failure
        return f"{failure}; it waits in {file} and is taken in when the ledger is next asked"
    return ""
