"""The next night: the same features with the states of past days, from the local disk and from a store that is far away.

Every timed night is a real one: states as the night before left them are put back before it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

LATENCY_MS = 20
BUCKET = "bench"


@dataclass
class Nights:
    """The night after the last one that states were written at."""

    measure: Callable[[str, list[str], dict[str, str]], object]
    build: list[str]
    lake: Path
    as_of: str
    work: Path

    def prepare(self) -> tuple[object, int]:
        """Writes the states of the night before, all of history; returns what that took and their bytes."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        before = (date.fromisoformat(self.as_of) - timedelta(days=1)).isoformat()
        first = self.measure("first night", [*self.build, "--as-of", before, "--dry-run"], self.env())
        self.states.rename(self.pristine)
        return first, sum(file.stat().st_size for file in self.pristine.rglob("*.parquet"))

    def night(self, name: str, out: Path | None, env: dict[str, str] | None = None) -> object:
        """The next night; without a file all but the writing of the matrix."""
        shutil.rmtree(self.states, ignore_errors=True)
        shutil.copytree(self.pristine, self.states)
        target = ["--out", str(out)] if out else ["--dry-run"]
        return self.measure(name, [*self.build, "--as-of", self.as_of, *target], env or self.env())

    @property
    def states(self) -> Path:
        return self.work / BUCKET / "state"

    @property
    def pristine(self) -> Path:
        return self.work / "pristine"

    def env(self) -> dict[str, str]:
        return {"TENURE_LAKE": self.lake.as_uri(), "TENURE_STATE": self.states.as_uri() + "/"}


class Store:
    """The lake and the states of some nights behind a local S3 server that takes its time."""

    def __init__(self, nights: Nights):
        root = nights.work
        (root / BUCKET).mkdir(exist_ok=True)
        link = root / BUCKET / "lake"
        link.unlink(missing_ok=True)
        link.symlink_to(nights.lake)
        self.log = root / "requests.jsonl"
        self.log.write_text("")
        script = Path(__file__).with_name("s3_server.py")
        line = [sys.executable, str(script), "--root", str(root), "--latency-ms", str(LATENCY_MS), "--log", str(self.log)]
        self.server = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        self.port = int(self.server.stdout.readline())

    def env(self) -> dict[str, str]:
        keys = {name: "bench" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        place = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        lake = {"TENURE_LAKE": f"s3://{BUCKET}/lake/", "TENURE_STATE": f"s3://{BUCKET}/state/"}
        return os.environ | keys | place | lake

    def asked(self) -> tuple[int, int]:
        """Requests and bytes so far."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return len(lines), sum(line["bytes"] for line in lines)

    def close(self):
        self.server.kill()
        self.server.wait()
