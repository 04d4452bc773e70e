"""Runs one SQL statement with DuckDB and prints its rows as JSON. usage: query.py SQL"""

import json
import sys

import duckdb

result = duckdb.sql(sys.argv[1])
json.dump({"columns": result.columns, "rows": result.fetchall()}, sys.stdout, default=str)
