"""Contiguous pieces of work, from records that hold nothing but signs of life.

Some tools write when something was logged and never that a run ended. Signs of life no more than
`gap` apart are one piece, billed from its first to its last; what lies between two pieces is told
and not billed. A piece has ended when nothing came for the gap, so one younger than that may still
run: it is left out until it has. What ran before the first sign and after the last is not known.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from benthic.cost.imports.intake import Intake
from benthic.cost.imports.record import Record, clip

_MANY = 10_000


@dataclass
class Piece:
    first: float
    last: float


@dataclass
class Signs:
    """Signs of life as they come, in any order."""

    gap: float
    _pieces: list[Piece] = field(default_factory=list)

    def add(self, moment: float) -> None:
        if self._pieces:
            latest = self._pieces[-1]
            if latest.first - self.gap <= moment <= latest.last + self.gap:
                latest.first = min(latest.first, moment)
                latest.last = max(latest.last, moment)
                return
        self._pieces.append(Piece(moment, moment))
        if len(self._pieces) % _MANY == 0:
            self._pieces = joined(self._pieces, self.gap)

    def pieces(self) -> list[Piece]:
        """The pieces in order of time."""
        return joined(self._pieces, self.gap)


def joined(pieces: Iterable[Piece], gap: float) -> list[Piece]:
    """Pieces no more than `gap` apart as one."""
    found: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.first):
        if found and piece.first - found[-1].last <= gap:
            found[-1].last = max(found[-1].last, piece.last)
        else:
            found.append(Piece(piece.first, piece.last))
    return found


def pieces_reference(moments: Iterable[float], gap: float) -> list[Piece]:
    """What `Signs` finds, by sorting all signs."""
    return joined((Piece(moment, moment) for moment in moments), gap)


def add_pieces(
    intake: Intake,
    name: str,
    pieces: list[Piece],
    record: Callable[[Piece], Record],
    *,
    ended: bool = False,
) -> None:
    """Take each piece of a run as a row; `ended`: the tool says that the last one has."""
    gap, name = intake.terms.gap, clip(name, 60)
    for before, after in pairwise(pieces):
        hours = (after.first - before.last) / 3600
        intake.assume(
            f"'{name}' shows no sign of life for {hours:.1f} h, which is not billed: give that "
            "time in a table of your own if it did work."
        )
    for piece in pieces:
        if piece is pieces[-1] and not ended and intake.now - piece.last <= gap:
            why = f"the last sign of life is less than {gap / 60:g} minutes old"
            intake.leave(why, "import again when they have surely ended", name)
        else:
            intake.add(record(piece))
