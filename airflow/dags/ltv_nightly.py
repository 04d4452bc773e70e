"""The night of one Tenure job: check, run, show the verdict.

What the DAG needs stands in the environment of the workers; each setting can be overridden per run in its params:

==================  ======================================================================
``TENURE_BIN``      the program (default: ``tenure``, from the PATH)
``TENURE_JOB``      the job file (default: ``jobs/ltv.yaml``), absolute on a real worker
``TENURE_OPTIONS``  options for every command, such as ``--memory-limit 8GiB --threads 8``
==================  ======================================================================

Exit codes decide what Airflow does:

====  =====================================  ==========================================================
code  meaning                                here
====  =====================================  ==========================================================
0     done, or already done                  success
1     the job's or the data's fault, or a    the task fails at once: a retry would fail alike
      bug of ours
2     the infrastructure's fault             the task is retried, each time after a longer wait
3     done, and an alert threshold crossed   success, and the task ``alert`` runs, where it is skipped
                                             on a quiet night: hang your notification on it
====  =====================================  ==========================================================

Killed tasks need no cleaning up: the next try finishes or redoes what was begun, and publishes the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import IO, Any

from airflow.sdk import CronTriggerTimetable, Param, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

log = logging.getLogger("airflow.task.tenure")

DONE, USER, INFRA, ALERT = 0, 1, 2, 3

# The day that the night speaks for. `--as-of D` sees what happened before midnight at the start of D. The timetable
# below fires after that midnight, and a CronTriggerTimetable's `ds` is the day on which it fires, so `ds` is D and the
# newest complete day is in. (With data intervals, as a CronDataIntervalTimetable has them, `ds` would be a day older
# and `{{ data_interval_end | ds }}` the right one.) `ds` counts days in UTC: for a job in another timezone take
# `{{ logical_date.in_timezone('Europe/Berlin') | ds }}`. A run that was triggered by hand without a logical date has no
# `ds`; it means the day on which it was triggered.
AS_OF = "{{ params.as_of or ds | default(dag_run.run_after | ds) }}"


def tenure(arguments: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Runs one command with ``--json``; gives its exit code (0 or 3) and what it printed.

    Its talk goes to the task's log, line by line. Exit code 1 fails the task for good, any other one lets Airflow retry.
    """
    program = os.environ.get("TENURE_BIN", "tenure")
    options = shlex.split(os.environ.get("TENURE_OPTIONS", ""))
    command = [program, *arguments, "--json", *options]
    log.info("running %s", shlex.join(command))
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise AirflowFailException(f"`{program}` cannot be started ({error}): set TENURE_BIN to its path") from error

    last_words: list[str] = []
    talk = threading.Thread(target=_follow, args=(process.stderr, last_words), daemon=True)
    talk.start()
    try:
        assert process.stdout is not None
        printed = process.stdout.read()
        code = process.wait()
    finally:
        if process.poll() is None:  # the task was killed or timed out: the command must not go on alone
            process.terminate()
            process.wait()
        talk.join(timeout=10)
    raise_for_exit_code(code, last_words)
    return code, _parse(printed)


def raise_for_exit_code(code: int, last_words: Sequence[str] = ()) -> None:
    """Turns an exit code into what Airflow understands; returns for 0 and 3."""
    if code in (DONE, ALERT):
        return
    why = "\n".join(last_words) or "see the log above"
    if code == USER:
        raise AirflowFailException(f"the job or its data is at fault, retrying does not help:\n{why}")
    if code == INFRA:
        raise AirflowException(f"the infrastructure is at fault, trying again later:\n{why}")
    # A negative code is a signal, most often the kernel's out-of-memory killer.
    raise AirflowException(f"ended with exit code {code}, trying again later:\n{why}")


def _follow(stream: IO[str], last_words: list[str], keep: int = 20) -> None:
    for line in stream:
        log.info(line.rstrip())
        last_words.append(line.rstrip())
        del last_words[:-keep]


def _parse(printed: str) -> dict[str, Any]:
    if not printed.strip():
        return {}
    value = json.loads(printed)
    return value if isinstance(value, dict) else {"result": value}


@dag(
    dag_id="ltv_nightly",
    description="Customer value, churn and lifecycle stages, once a night",
    # 02:00 leaves the lake two hours to receive the last events of the day that ended.
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    # A night reads the stages of the night before it, so nights go one after the other, backfills too.
    max_active_runs=1,
    default_args={
        "retries": 4,
        "retry_delay": timedelta(minutes=2),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": timedelta(hours=6),
    },
    params={
        "job": Param(os.environ.get("TENURE_JOB", "jobs/ltv.yaml"), type="string", description="The job file"),
        "as_of": Param(
            None,
            type=["null", "string"],
            format="date",
            description="Another day than the one of this run's logical date",
        ),
        "force": Param(False, type="boolean", description="Compute the night again, even if it is published"),
    },
    doc_md=__doc__,
    tags=["tenure"],
)
def ltv_nightly() -> None:
    """check → run → verdict → alert."""

    @task
    def check(job: str) -> None:
        """Is the job right, does its SQL plan, does the model fit the features? Takes seconds and reads no data."""
        tenure(["check", job])

    @task
    def run(job: str, as_of: str, force: str) -> dict[str, Any]:
        """Scores, segments and publishes the night; what `tenure run --json` says goes to XCom."""
        code, night = tenure(["run", job, "--as-of", as_of, *(["--force"] if force == "True" else [])])
        return {**night, "exit_code": code}

    @task
    def verdict(job: str, night: dict[str, Any]) -> None:
        """Shows what the ledger holds of the night."""
        _, record = tenure(["runs", "show", night["run_id"], "--job", job])
        for line in describe(record):
            log.info(line)

    @task
    def alert(night: dict[str, Any]) -> None:
        """Skipped on a quiet night; succeeds, with the reasons in its log, when the run ended with exit code 3."""
        if night["exit_code"] != ALERT:
            raise AirflowSkipException("no alert threshold was crossed")
        for reason in night["alerts"]:
            log.warning("alert: %s", reason)

    job = "{{ params.job }}"
    night = run(job, AS_OF, "{{ params.force }}")
    check(job) >> night
    verdict(job, night)
    alert(night)


def describe(record: dict[str, Any]) -> list[str]:
    """The lines that the task ``verdict`` writes: how the run ended, its stages, its tables."""
    counts = record["counts"]
    customers, scored = counts["customers"], counts["scored"]
    lines = [
        f"night of {record['as_of']}: {record['verdict']} (exit code {record['exit_code']}), run {record['run_id']}",
        f"{customers} customers, {scored} of them scored",
    ]
    lines += [f"stage {stage}: {members} customers" for stage, members in counts["stages"].items()]
    lines += [f"table {table['path']}: {table['rows']} rows" for table in record["tables"]]
    lines += [f"alert: {reason}" for reason in record["alerts"]]
    return lines


ltv_nightly()
