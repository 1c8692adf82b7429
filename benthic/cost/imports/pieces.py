"""Contiguous pieces of work, from records that hold nothing but signs of life.

Some tools write when something was logged and never that a run ended. Signs of life no more than
`gap` apart are one piece, billed from its first to its last; what lies between two pieces is told
and not billed. A piece has ended when nothing came for the gap, so one younger than that may still
run: it is left out until it has. What ran before the first sign and after the last is not known.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from benthic.cost.imports.intake import Intake, Record, clip

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


def add_pieces(intake: Intake, record: Record, pieces: list[Piece], *, ended: bool = False) -> None:
    """Take each piece as a row like `record`, whose key, start and seconds are of no account.

    `record.key` is followed by the first moment of the piece; `ended`: the tool says that it has.
    """
    gap = intake.terms.gap
    for before, after in zip(pieces, pieces[1:]):
        hours = (after.first - before.last) / 3600
        intake.assume(
            f"'{clip(record.name, 60)}' shows no sign of life for {hours:.1f} h, which is not "
            "billed: give the run by hand if it did work."
        )
    for piece in pieces:
        if piece is pieces[-1] and not ended and intake.now - piece.last <= gap:
            why = f"the last sign of life is less than {gap / 60:g} minutes old"
            intake.leave(why, "import again when they have surely ended", record.name)
            continue
        intake.add(
            replace(
                record,
                key=(*record.key, f"{piece.first:.6f}"),
                started=piece.first,
                seconds=piece.last - piece.first,
            )
        )
