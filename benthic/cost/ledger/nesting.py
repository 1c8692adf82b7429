"""What a row counts as, in SQL: amendments applied, and what is inside it taken off.

What is inside a row, on the same kind of device, takes its hours off it; on another kind it is an
addition. Where what is inside would take more device-hours than the row had, as parallel work does
that holds the same devices, each counts in proportion, and so does what is inside it in turn: a
tree of rows never counts more device-hours than its root, as long as each ends within its outer
row; what outlives that one counts beside the rows further out.
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
INSIDE = f"""part AS MATERIALIZED (SELECT p.rowid AS number, c.rowid AS child, c.joules,
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
    inside AS MATERIALIZED (SELECT number, MIN(room, SUM(seconds * share)) AS seconds,
    CASE WHEN SUM(seconds * share) > room THEN room / SUM(seconds * share) ELSE 1.0 END AS fit,
    TOTAL(joules * seconds / whole) AS joules, TOTAL(low * seconds / whole) AS joules_low,
    TOTAL(high * seconds / whole) AS joules_high FROM part GROUP BY number),
    scaled AS (SELECT c.child AS number, 1 - c.seconds / c.whole * (1 - i.fit) AS scale, 1 AS depth
    FROM inside AS i CROSS JOIN part AS c ON c.number = i.number
    WHERE i.fit < 1 AND c.share > 0 AND c.whole > 0
    UNION ALL SELECT c.child, 1 - c.seconds / c.whole * (1 - s.scale * i.fit), s.depth + 1
    FROM scaled AS s CROSS JOIN inside AS i ON i.number = s.number
    CROSS JOIN part AS c ON c.number = s.number
    WHERE c.share > 0 AND c.whole > 0 AND s.depth < {_DEPTH}),
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
        **{name: f"e.{name}" for name in ("status", "seconds_productive")},
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
