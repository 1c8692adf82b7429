"""What a row counts as, in SQL: amendments applied, and what is inside it taken off.

What is inside a row, on the same kind of device, takes its hours off it; on another kind it is an
addition. While work side by side claims more devices than the row has, each counts in proportion,
and so does what is inside it in turn; idle hours stay idle. A tree of rows never counts more
device-hours than its root, as long as each ends within its outer row; what outlives that one counts
beside the rows further out.
"""

from benthic.cost.ledger.entries import AMENDABLE, COLUMNS

_DEPTH = 64  # rows inside rows; imports may name parents in a ring
AMENDED = f"""amended AS (SELECT e.rowid AS number, GROUP_CONCAT(field) AS fields,
    MAX(CASE field WHEN 'price_per_hour' THEN 'amended: ' || reason END) AS price_source,
    {", ".join(f"MAX(CASE field WHEN '{name}' THEN value END) AS {name}" for name in AMENDABLE)}
    FROM amendments AS m CROSS JOIN entries AS e ON e.id = m.entry
    WHERE m.id IN (SELECT MAX(id) FROM amendments GROUP BY entry, field) GROUP BY e.rowid)"""
OUTER = "SELECT DISTINCT parent FROM entries WHERE parent IS NOT NULL"
OUTER_OF = """WITH up (parent) AS (SELECT value FROM json_each(:ids) UNION
    SELECT e.parent FROM up CROSS JOIN entries AS e ON e.id = up.parent WHERE e.parent IS NOT NULL)
    SELECT parent FROM up"""
JOINED = """LEFT JOIN amended AS a ON a.number = e.rowid
    LEFT JOIN inside AS i ON i.number = e.rowid LEFT JOIN beside AS b ON b.number = e.rowid"""
# A clock set back may end a row early: then it lasted, from its start, for its own seconds.
_LAST = "MAX(p.ended, p.started + p.seconds)"
# A clock that runs with the time, and slower while more is claimed than there is: what a row has of
# its claim is how far the clock ran while it lasted.
_CROWDED = """edge AS (SELECT number, child, began AS at, share, -1 AS side FROM part
    WHERE share > 0 UNION ALL SELECT number, child, began + seconds, -share, 1 FROM part
    WHERE share > 0),
    pace AS (SELECT number, child, at, side,
    (LEAD(at) OVER (PARTITION BY number ORDER BY at, child, side) - at)
    / MAX(1.0, SUM(share) OVER (PARTITION BY number ORDER BY at)) AS runs FROM edge),
    clock AS (SELECT child, at, side, TOTAL(runs) OVER (PARTITION BY number
    ORDER BY at, child, side ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS ran FROM pace),
    cut AS MATERIALIZED (SELECT child, SUM(side * ran) / SUM(side * at) AS room FROM clock
    GROUP BY child HAVING SUM(side * at) - SUM(side * ran) > 1e-6)"""
INSIDE = f"""part AS MATERIALIZED (SELECT p.rowid AS number, c.rowid AS child, c.joules,
    c.started AS began,
    COALESCE(c.joules_low, c.joules) AS low, COALESCE(c.joules_high, c.joules) AS high,
    COALESCE(ca.seconds, c.seconds) AS whole, COALESCE(pa.seconds, p.seconds) AS room,
    MIN(COALESCE(ca.seconds, c.seconds), CASE
    WHEN p.ended IS NULL OR c.started < p.started OR c.started > {_LAST} THEN p.seconds
    WHEN c.heartbeat <= {_LAST} THEN COALESCE(ca.seconds, c.seconds)
    ELSE MIN(p.seconds, {_LAST} - c.started) END) AS seconds,
    CASE WHEN COALESCE(ca.device, c.device) = COALESCE(pa.device, p.device)
    THEN COALESCE(ca.count, c.count) * 1.0 / COALESCE(pa.count, p.count) ELSE 0.0 END AS share
    FROM ({{outer}}) AS o CROSS JOIN entries AS p ON p.id = o.parent
    LEFT JOIN amended AS pa ON pa.number = p.rowid
    CROSS JOIN entries AS c ON c.parent = o.parent AND c.id <> o.parent
    LEFT JOIN amended AS ca ON ca.number = c.rowid),
    {_CROWDED},
    inside AS MATERIALIZED (SELECT number, MIN(room, SUM(taken)) AS seconds,
    CASE WHEN SUM(taken) > room THEN room / SUM(taken) ELSE 1.0 END AS fit,
    TOTAL(joules * seconds / whole) AS joules, TOTAL(low * seconds / whole) AS joules_low,
    TOTAL(high * seconds / whole) AS joules_high
    FROM (SELECT p.*, seconds * share * COALESCE(c.room, 1.0) AS taken
    FROM part AS p LEFT JOIN cut AS c USING (child)) GROUP BY number),
    lone AS MATERIALIZED (SELECT p.number, p.child, p.seconds / p.whole AS within,
    i.fit * COALESCE(c.room, 1.0) AS fit FROM part AS p JOIN inside AS i USING (number)
    LEFT JOIN cut AS c USING (child) WHERE p.share > 0 AND p.whole > 0),
    scaled AS (SELECT child AS number, 1 - within * (1 - fit) AS scale, 1 AS depth
    FROM lone WHERE fit < 1
    UNION ALL SELECT c.child, 1 - c.within * (1 - s.scale * c.fit), s.depth + 1
    FROM scaled AS s CROSS JOIN lone AS c ON c.number = s.number WHERE s.depth < {_DEPTH}),
    beside AS MATERIALIZED (SELECT number, MIN(scale) AS scale FROM scaled GROUP BY number)"""
SPECIAL = f"""special AS (SELECT rowid AS number FROM entries WHERE ended IS NULL
    UNION SELECT number FROM amended UNION SELECT number FROM beside
    UNION SELECT e.rowid FROM ({OUTER}) AS o CROSS JOIN entries AS e ON e.id = o.parent)"""
NESTED = ("seconds", "joules", "joules_low", "joules_high")
NOW = {
    name: f"COALESCE(a.{name}, e.{name})" if name in (*AMENDABLE, "price_source") else f"e.{name}"
    for name in (*COLUMNS, "month")
}
_UNSCALED = f"MAX(0.0, {NOW['seconds']} - COALESCE(i.seconds, 0.0))"
_KEPT = """(CASE WHEN {status} = 'done'
    AND ({seconds_productive} IS NULL OR {seconds_productive} >= {recorded})
    THEN MAX(0.0, {seconds} - {nested})
    ELSE MAX(0.0, MIN(COALESCE({seconds_productive}, 0.0), {seconds}) - {nested}) END * {scale})"""
NET = NOW | {
    "kept": _KEPT.format(
        **{name: NOW[name] for name in ("status", "seconds_productive")},
        recorded="e.seconds",
        seconds=NOW["seconds"],
        nested="COALESCE(i.seconds, 0.0)",
        scale="COALESCE(b.scale, 1.0)",
    ),
    "seconds": f"{_UNSCALED} * COALESCE(b.scale, 1.0)",
    "shared": f"{_UNSCALED} * (1 - COALESCE(b.scale, 1.0))",
    "joules": "MAX(0.0, e.joules - COALESCE(i.joules, 0.0))",
    "joules_low": "MAX(0.0, COALESCE(e.joules_low, e.joules) - COALESCE(i.joules_low, 0.0))",
    "joules_high": "MAX(0.0, COALESCE(e.joules_high, e.joules) - COALESCE(i.joules_high, 0.0))",
}
PLAIN_KEPT = """MIN(seconds,
    COALESCE(seconds_productive, CASE status WHEN 'done' THEN seconds ELSE 0.0 END))"""
