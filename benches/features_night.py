"""The next night: the features of one more day, with the states of the days before, from a disk or from a slow S3.

Every timed night is a real one: before it, the states are as the night before left them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

LATENCY_MS = 20
BUCKET = "bench"

# What one measured command gives: the bench's figures.
Row = TypeVar("Row")


class Store:
    """A lake and a folder for states behind a local S3 server that takes its time; its CPU is nobody's."""

    def __init__(self, root: Path, lake: Path):
        (root / BUCKET).mkdir(parents=True, exist_ok=True)
        link = root / BUCKET / "lake"
        link.unlink(missing_ok=True)
        link.symlink_to(lake)
        self.log = root / "requests.jsonl"
        self.log.write_text("")
        script = Path(__file__).with_name("s3_server.py")
        line = [sys.executable, str(script), "--root", str(root), "--latency-ms", str(LATENCY_MS)]
        self.server = subprocess.Popen([*line, "--log", str(self.log)], stdout=subprocess.PIPE, text=True)
        self.port = self.server.stdout.readline().strip()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()

    def env(self) -> dict[str, str]:
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ALLOW_HTTP": "true"}
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
        return endpoint | keys | {"TENURE_LAKE": f"s3://{BUCKET}/lake/", "TENURE_STATE": f"s3://{BUCKET}/state/"}

    def forget(self) -> None:
        """Counts from here on: the server appends to its log, wherever that ends."""
        self.log.write_text("")

    def asked(self) -> dict[str, int]:
        """Requests by method, and the bytes of their bodies."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        methods = [line["method"] for line in lines]
        counts = {method: methods.count(method) for method in sorted(set(methods))}
        read, written = (sum(line[name] for line in lines) for name in ("bytes", "received"))
        return dict(requests=len(lines), **counts, bytes_read=read, bytes_written=written)


@dataclass
class Nights:
    """The night after the one that wrote the states of all days before; states know the very files they are of, so
    those of a lake in S3 are not those of the same lake on the disk."""

    measure: Callable[[str, list[str], dict[str, str]], Row]
    build: list[str]
    lake: Path
    as_of: str
    work: Path
    store: Store | None = None
    asked: list[dict[str, int]] = field(default_factory=list)

    def prepare(self, name: str) -> tuple[Row, int]:
        """The night before, which reads all of history; returns what it took and the bytes of its states."""
        shutil.rmtree(self.pristine, ignore_errors=True)
        shutil.rmtree(self.states, ignore_errors=True)
        self.states.parent.mkdir(parents=True, exist_ok=True)
        before = (date.fromisoformat(self.as_of) - timedelta(days=1)).isoformat()
        first = self.measure(name, [*self.build, "--as-of", before, "--dry-run"], self.env())
        self.states.rename(self.pristine)
        return first, sum(file.stat().st_size for file in self.pristine.rglob("*") if file.is_file())

    def night(self, name: str, out: Path | None) -> Row:
        """The next night; without a file it does all but write the matrix."""
        shutil.rmtree(self.states, ignore_errors=True)
        shutil.copytree(self.pristine, self.states)
        # The disk is to be done with the copies before the night begins.
        os.sync()
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.unlink(missing_ok=True)
        if self.store:
            self.store.forget()
        target = ["--out", str(out)] if out else ["--dry-run"]
        row = self.measure(name, [*self.build, "--as-of", self.as_of, *target], self.env())
        if self.store:
            self.asked.append(self.store.asked())
        return row

    @property
    def states(self) -> Path:
        return self.work / BUCKET / "state"

    @property
    def pristine(self) -> Path:
        return self.work / "pristine"

    def env(self) -> dict[str, str]:
        if self.store:
            return self.store.env()
        return {"TENURE_LAKE": self.lake.as_uri(), "TENURE_STATE": self.states.as_uri() + "/"}
