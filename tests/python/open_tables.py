"""Opens the tables of one published night with DuckDB, as an analyst would, and prints what it sees as JSON.

usage: open_tables.py PUBLISHED_FOLDER NIGHT KEY_COLUMN
"""

import json
import pathlib
import sys

import duckdb

out, night, key = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
seen = {}
for folder in sorted(out.iterdir()):
    files = sorted((folder / f"ds={night}").glob("*.parquet"))
    if folder.name.startswith("_") or not files:
        continue
    table = duckdb.read_parquet([str(file) for file in files], hive_partitioning=False)
    columns = list(zip(table.columns, map(str, table.types)))
    floats = [name for name, kind in columns if kind in ("DOUBLE", "FLOAT")]
    broken = " + ".join(f'coalesce((isnan("{c}") OR isinf("{c}"))::INT, 0)' for c in floats) or "0"
    distinct = f'count(DISTINCT "{key}")' if key in table.columns else "NULL"
    counts = table.aggregate(f"count(*), {distinct}, coalesce(sum({broken}), 0)::BIGINT").fetchall()
    [(rows, keys, not_finite)] = counts
    sorted_by_key = True
    if key in table.columns:
        keys_in_order = [k for (k,) in table.project(f'"{key}"').fetchall()]
        sorted_by_key = keys_in_order == sorted(keys_in_order)
    seen[folder.name] = {
        "columns": columns,
        "rows": rows,
        "keys": keys,
        "not_finite": not_finite,
        "sorted_by_key": sorted_by_key,
        "files": len(files),
    }
json.dump(seen, sys.stdout)
