"""Holds the DAG's reading of exit codes against what Airflow does with each exception. usage: exit_codes.py DAGS_FOLDER"""

import sys

sys.path.insert(0, sys.argv[1])

from airflow.sdk.exceptions import AirflowException, AirflowFailException  # noqa: E402
from ltv_nightly import raise_for_exit_code  # noqa: E402


def outcome(code: int) -> str:
    try:
        raise_for_exit_code(code, ["error: what went wrong"])
    except AirflowFailException as error:
        assert "what went wrong" in str(error)
        return "fail"
    except AirflowException as error:
        assert "what went wrong" in str(error)
        return "retry"
    return "go on"


seen = {code: outcome(code) for code in (0, 1, 2, 3, -9, 101)}
expected = {0: "go on", 1: "fail", 2: "retry", 3: "go on", -9: "retry", 101: "retry"}
assert seen == expected, f"{seen} instead of {expected}"
