"""Many processes write one ledger and are killed at random: no row is lost, none is there twice.

Each writer numbers its rows and notes in a file of its own what it was told is written: a row begun
and a row finished, or rows imported in one transaction. SIGKILL falls on a random writer at random
moments; it is started again and goes on at the first number that it was not told of, under the same
external key, so a row that was written but not told is met again. At the end every number of every
writer must be in the ledger once, each row that was told finished must be `done` with its figures,
and the sums must be those of the rows. Exit code 0 needs all that.

    python benchmarks/ledger_writers.py [--writers 16] [--rows 10000] [--kills 100] [--seed 0]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benthic.cost.ledger.entries import Entry, Span, Usage
from benthic.cost.ledger.ledger import Ledger, LedgerError

BATCH = 20  # rows of one import; every other batch is begun and finished one by one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writer", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.writer:
        write(Path(given.writer[0]), int(given.writer[1]), given.rows)
        return 0
    print(f"# {' '.join(sys.argv)}")
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        killed = disturb(Path(folder), given.writers, given.rows, given.kills, given.seed)
        spent = time.monotonic() - start
        good = check(Path(folder), given.writers, given.rows)
    print(f"{killed} kills, {spent:.1f} s, {given.writers * given.rows / spent:,.0f} rows/s")
    return 0 if good and killed == given.kills else 1


def write(folder: Path, writer: int, rows: int) -> None:
    """One writer's life: from the first row that it was not told of, to the last."""
    told = [line.split() for line in lines(folder, writer)]
    number = len({line[1] for line in told if line[0] != "refused"})
    with Ledger(folder / "ledger.sqlite") as ledger, note_file(folder, writer).open("ab", 0) as out:
        if number and told[-1][0] == "begun":
            number -= 1  # its end was not told
        while number < rows:
            try:
                number = forward(ledger, out, writer, number, rows)
            except LedgerError as error:
                if "locked" not in str(error):
                    raise
                out.write(f"refused {number}\n".encode())


def forward(ledger: Ledger, out, writer: int, number: int, rows: int) -> int:
    """Write one row, or a batch of the past, note it, and return the next number."""
    if number // BATCH % 2:
        last = min(rows, (number // BATCH + 1) * BATCH)
        ledger.add(row(writer, n) for n in range(number, last))
        out.write("".join(f"imported {n}\n" for n in range(number, last)).encode())
        return last
    try:
        entry_id = ledger.begin(span(writer, number), energy_source="none")
    except LedgerError as error:
        if "is there already" not in str(error):
            raise
        out.write(f"met {number}\n".encode())  # begun by a life before this one
        return number + 1
    out.write(f"begun {number}\n".encode())
    ledger.beat(entry_id, Usage(seconds=0.5))
    ledger.finish(entry_id, Usage(seconds=1.0 + number, tokens=number), "done")
    out.write(f"finished {number}\n".encode())
    return number + 1


def disturb(folder: Path, writers: int, rows: int, kills: int, seed: int) -> int:
    """Run all writers to their end, `kills` of their lives cut short; return how many were."""
    Ledger(folder / "ledger.sqlite").close()
    draw = random.Random(seed)
    alive = {writer: start(folder, writer, rows) for writer in range(writers)}
    at = sorted(draw.uniform(0.02, 0.9) for _ in range(kills))  # shares of all rows
    killed = 0
    while alive:
        time.sleep(draw.uniform(0.001, 0.02))
        for writer, process in list(alive.items()):
            if process.poll() is not None:
                if process.returncode:
                    raise SystemExit(f"writer {writer} ended with {process.returncode}")
                del alive[writer]
        share = size(folder, writers) / (writers * rows * 17)  # bytes of notes, roughly
        if alive and killed < kills and share >= at[killed]:
            writer = draw.choice(list(alive))
            if alive[writer].poll() is None:
                alive[writer].send_signal(signal.SIGKILL)
                killed += alive[writer].wait() == -signal.SIGKILL
                alive[writer] = start(folder, writer, rows)
    return killed


def check(folder: Path, writers: int, rows: int) -> bool:
    """Compare what the writers were told with what is found; print both."""
    told: Counter[str] = Counter()
    finished: set[str] = set()
    for writer in range(writers):
        for kind, number in map(str.split, lines(folder, writer)):
            told[kind] += 1
            if kind in ("finished", "imported"):
                finished.add(key(writer, int(number)))
    with Ledger(folder / "ledger.sqlite") as ledger:
        stale = ledger.close_stale()
        found = {row.external: row for row in ledger.query()}
        groups = ledger.groups(("status",))
        integrity = ledger._connection.execute("PRAGMA integrity_check").fetchone()[0]
    everything = {key(writer, number) for writer in range(writers) for number in range(rows)}
    count = sum(group.rows for group in groups)
    lost = len(everything - set(found))
    wrong = sum(
        found[name].status != "done" or found[name].seconds != 1.0 + int(name.split("-")[1])
        for name in finished & set(found)
    )
    print(f"told: {', '.join(f'{n:,} {kind}' for kind, n in sorted(told.items()))}")
    print(f"rows: {len(everything):,} due, {count:,} found, {len(found):,} different")
    print(
        f"lost {lost}, twice {count - len(found)}, told and not so {wrong}, integrity {integrity}"
    )
    print(f"cut short between begin and finish, closed at the last heartbeat: {stale}")
    sums = sum(group.seconds for group in groups), sum(row.seconds for row in found.values())
    return (
        lost == wrong == 0
        and count == len(found) == len(everything)
        and finished <= set(found)
        and integrity == "ok"
        and abs(sums[0] - sums[1]) <= 1e-9 * sums[1]
    )


def span(writer: int, number: int) -> Span:
    return Span(
        run=f"/runs/{writer}",
        attempt="a",
        stage="write",
        purpose="data",
        device="cpu",
        price_per_hour=0.05,
        price_source="none",
        external=key(writer, number),
    )


def row(writer: int, number: int) -> Entry:
    seconds = 1.0 + number
    return Entry(
        **vars(span(writer, number)),
        energy_source="none",
        started=1e9,
        heartbeat=1e9 + seconds,
        ended=1e9 + seconds,
        seconds=seconds,
        tokens=number,
        status="done",
    )


def key(writer: int, number: int) -> str:
    return f"{writer}-{number}"


def note_file(folder: Path, writer: int) -> Path:
    return folder / f"{writer}.told"


def lines(folder: Path, writer: int) -> list[str]:
    path = note_file(folder, writer)
    return path.read_text().splitlines() if path.exists() else []


def size(folder: Path, writers: int) -> int:
    paths = [note_file(folder, writer) for writer in range(writers)]
    return sum(path.stat().st_size for path in paths if path.exists())


def start(folder: Path, writer: int, rows: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "--writer", str(folder), str(writer), "--rows", str(rows)]
    return subprocess.Popen(command, env=os.environ)


if __name__ == "__main__":
    sys.exit(main())
