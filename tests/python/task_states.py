"""Prints the state and the tries of every task of the newest DAG run as JSON. usage: task_states.py AIRFLOW_DB"""

import json
import sqlite3
import sys

connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=30)
rows = connection.execute(
    "SELECT task_id, state, try_number FROM task_instance"
    " WHERE run_id = (SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1)"
)
json.dump({task: {"state": state, "tries": tries} for task, state, tries in rows}, sys.stdout)
