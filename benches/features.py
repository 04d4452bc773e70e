#!/usr/bin/env python3
"""The feature stage beside DuckDB and Polars: CPU seconds, wall seconds and memory for the same features.

    make bench-features                                                      everything: 1,000,000 customers, 400 days
    make bench-features BENCH_OPTIONS='--customers 20000 --days 120 --runs 1'  a quick look, whose ratios mean little

Parts, over one generated lake (`../shared/bench/features` has its generator, the peers and their workloads):
  w       one as-of date: `tenure features build` with the job `benches/features/job.yaml`, and the peers
  w12     twelve as-of dates, 30 days apart, in one command each
  memory  `w` once more, ours alone, with a small `--memory-limit`
  night   the next night, with the states that the night before left; and the same without writing the matrix
  s3      that night from a local S3 server that waits 20 ms before every answer
  plan    the plan of 200 feature files with 8 windows each
  long    that night in a lake of 1,600 days as busy as the 400; the lake takes a while, so only with `--only … long`
The first three read the tables alone (`--from-source`). The tools take turns, after the lake's files have been read
once; the figures are medians. Ours must give what DuckDB gives, by the comparison beside the peers, and a night must
write the very bytes that `w` writes.

Prints Markdown tables and the verdict; exit status 1 when a goal is missed, 2 when something could not be run.
"""

import argparse
import filecmp
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from features_night import Nights, Store

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "benches" / "features" / "job.yaml"
OURS, DUCKDB, POLARS = "tenure", "duckdb", "polars"
TOOLS = [OURS, DUCKDB, POLARS]
PARTS = {
    "w": "W",
    "w12": "W12",
    "memory": "W with little memory",
    "night": "the next night",
    "s3": "the next night from S3",
    "plan": "the plan of 200 files",
    "long": "the next night of a long history",
}
DEFAULT_PARTS = [part for part in PARTS if part != "long"]
DRY = "without the file"
FULL = {"customers": 1_000_000, "days": 400, "seed": 1}
# Rows per customer, as the generator has them by itself.
ROWS = {"orders": 5, "events": 30}
# The long lake has so many times the days, orders and events, and the same customers.
LONGER = 4
DATES, STEP_DAYS = 12, 30
MIB, MB, GB = 2**20, 1e6, 1e9
MEMORY_LIMIT_MIB = 512


class Failed(Exception):
    """Something could not be run at all."""


class Unfinished(Failed):
    """A command was started and did not end well."""


@dataclass(frozen=True)
class Figures:
    cpu_s: float
    wall_s: float
    peak_rss: float
    others_cpu_s: float


# Part → tool → figures.
Measured = dict[str, dict[str, Figures]]


@dataclass(frozen=True)
class Goal:
    """A figure that is at most `limit`; it is judged where its part was run."""

    part: str
    what: str
    figure: Callable[[Measured], float]
    limit: float
    unit: str


def beside(part: str, peer: str, field: str) -> Callable[[Measured], float]:
    """Our figure over a peer's."""
    return lambda m: getattr(m[part][OURS], field) / getattr(m[part][peer], field)


def beside_best(part: str, field: str) -> Callable[[Measured], float]:
    """Our figure over the best peer's."""
    return lambda m: getattr(m[part][OURS], field) / min(getattr(m[part][t], field) for t in TOOLS if t != OURS)


def over_w(part: str, tool: str, field: str) -> Callable[[Measured], float]:
    """A figure of ours over DuckDB's with W."""
    return lambda m: getattr(m[part][tool], field) / getattr(m["w"][DUCKDB], field)


def wall(measured: Measured, part: str) -> float:
    return measured[part][OURS].wall_s


def cpu(measured: Measured, part: str) -> float:
    return measured[part][OURS].cpu_s


GOALS = [
    Goal("w", "W: CPU over DuckDB's", beside("w", DUCKDB, "cpu_s"), 0.6, "×"),
    Goal("w", "W: wall time over DuckDB's", beside("w", DUCKDB, "wall_s"), 0.6, "×"),
    Goal("w", "W: peak memory", lambda m: m["w"][OURS].peak_rss / GB, 2.0, " GB"),
    Goal("w12", "W12: CPU over our own W's", lambda m: m["w12"][OURS].cpu_s / m["w"][OURS].cpu_s, 2.5, "×"),
    Goal("w12", "W12: CPU over the best peer's", beside_best("w12", "cpu_s"), 0.4, "×"),
    Goal(
        "memory",
        f"W within {MEMORY_LIMIT_MIB} MiB: peak memory",
        lambda m: m["memory"][OURS].peak_rss / MB,
        (2 * MEMORY_LIMIT_MIB * MIB + 300 * MB) / MB,
        " MB",
    ),
    Goal("night", "next night: CPU over DuckDB's W", over_w("night", OURS, "cpu_s"), 1 / 6, "×"),
    Goal("night", "next night: wall time over DuckDB's W", over_w("night", OURS, "wall_s"), 1 / 6, "×"),
    Goal("night", "next night but for the file: CPU over DuckDB's W", over_w("night", DRY, "cpu_s"), 1 / 20, "×"),
    Goal("night", "next night but for the file: wall over DuckDB's W", over_w("night", DRY, "wall_s"), 1 / 20, "×"),
    Goal("s3", "next night from S3: wall time over the disk's", lambda m: wall(m, "s3") / wall(m, "night"), 1.5, "×"),
    Goal("plan", "plan of 200 files × 8 windows", lambda m: wall(m, "plan"), 2.0, " s"),
    Goal("long", f"next night of {LONGER}× the days: CPU over", lambda m: cpu(m, "long") / cpu(m, "night"), 1.3, "×"),
]


def main() -> int:
    args = arguments()
    shutil.rmtree(args.work / "built", ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)
    args.log = args.work / "measured.jsonl"
    args.log.write_text("")
    args.lake = lake(args, args.lake_dir, args.wanted)
    args.as_of = args.lake["as_of"]
    read_once(args.lake_dir)
    measured: Measured = {}
    missed, before = [], {}
    if {"w", "w12", "night"} & set(args.only):
        # W12 alone is measured by our W too, and a night by DuckDB's.
        tools = [tool for tool in TOOLS if "w" in args.only or tool in needed(args.only)]
        measured["w"] = turns(args, "w", tools, args.runs)
    if "w12" in args.only:
        measured["w12"] = turns(args, "w12", TOOLS, args.runs_w12)
    if "memory" in args.only:
        try:
            measured["memory"] = turns(args, "memory", [OURS], 1)
        except Unfinished as failure:
            missed.append(f"{PARTS['memory']}: {failure}")
    if {"night", "s3", "long"} & set(args.only):
        before = nights(args, measured)
    if "plan" in args.only:
        measured["plan"] = {OURS: plan(args)}
    print_figures(args, measured)
    missed += answers(args, measured)
    missed += verdict(args, measured)
    if args.json:
        figures = {part: {tool: asdict(f) for tool, f in tools.items()} for part, tools in measured.items()}
        found = dict(lake=args.lake, measured=figures, before=before, missed=missed)
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n" + ("\n".join(f"missed: {line}" for line in missed) or "every goal is met"))
    return 1 if missed else 0


def needed(only: list[str]) -> set[str]:
    """Whose W is needed where W itself is not asked for."""
    return {tool for part, tool in (("w12", OURS), ("night", DUCKDB)) if part in only}


def nights(args, measured: Measured) -> dict[str, dict]:
    """The next night from the disk, from S3 and in the long lake, in turn; returns what happened before each and how
    much was asked of S3."""
    build = [args.tenure, "features", "build", str(JOB), "--quiet", "--threads", str(args.threads)]
    run = partial(run_measured, args)
    with ExitStack() as running:
        places = {"night": Nights(run, build, args.lake_dir, args.as_of, args.work / "nights")}
        if "s3" in args.only:
            work = args.work / "nights_s3"
            store = running.enter_context(Store(work, args.lake_dir))
            places["s3"] = Nights(run, build, args.lake_dir, args.as_of, work, store)
        if "long" in args.only:
            facts = lake(args, args.long_lake_dir, args.wanted | {"days": LONGER * args.days}, LONGER)
            read_once(args.long_lake_dir)
            work = args.work / "nights_long"
            places["long"] = Nights(run, build, args.long_lake_dir, facts["as_of"], work)
        before = {part: first_night(part, place) for part, place in places.items()}
        rows: dict[tuple[str, str], list[Figures]] = {}
        for turn in range(1, args.runs + 1):
            for part, place in places.items():
                kinds = [(OURS, built(args, part, OURS)), (DRY, None)]
                for tool, out in kinds[:1] if part == "s3" else kinds:
                    row = place.night(f"{part} {tool}", out)
                    rows.setdefault((part, tool), []).append(row)
                    say_row(part, tool, turn, args.runs, row)
    for (part, tool), found in rows.items():
        measured.setdefault(part, {})[tool] = medians(found)
    if "s3" in places:
        before["s3"]["asked"] = places["s3"].asked
        counts = ", ".join(f"{number:,} {what}" for what, number in places["s3"].asked[-1].items())
        print(f"asked of S3 in the last of its nights: {counts}")
    return before


def first_night(part: str, place: Nights) -> dict:
    row, size = place.prepare(f"{part} first")
    cpu_s, wall_s, peak = cells_of(row)
    print(f"{PARTS[part]}, the night before: {cpu_s} CPU s, {wall_s} s, peak RSS {peak}; states of {size / MB:.1f} MB")
    return dict(first=asdict(row), state_bytes=size)


def plan(args) -> Figures:
    """Plans many files; nothing is read."""
    root = args.work / "plan"
    shutil.rmtree(root, ignore_errors=True)
    (root / "jobs").mkdir(parents=True)
    (root / "sql").mkdir()
    (root / "jobs" / "job.yaml").write_text(JOB.read_text())
    for i in range(200):
        aggregates = f"count(*) FILTER (WHERE items = {i}) AS n{i}, sum(amount + {i}) AS s{i}"
        aggregates += f", max(amount - {i}) AS m{i}"
        windows = "-- @windows 1d 3d 7d 14d 30d 90d 365d lifetime"
        sql = f"{windows}\nSELECT customer_id, {aggregates} FROM orders GROUP BY customer_id\n"
        (root / "sql" / f"f{i}.sql").write_text(sql)
    line = [args.tenure, "features", "plan", str(root / "jobs" / "job.yaml")]
    return run_measured(args, "plan", line, {"TENURE_LAKE": args.lake_dir.as_uri()})


def arguments():
    out = ROOT / "out" / "bench-features"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tenure", default="tenure", help="the program")
    p.add_argument("--only", nargs="+", choices=list(PARTS), default=DEFAULT_PARTS, help="these parts alone")
    p.add_argument("--runs", type=positive, default=3, help="turns of every tool with W")
    p.add_argument("--runs-w12", type=positive, default=1, help="turns of every tool with W12")
    p.add_argument("--threads", type=positive, default=2, help="threads of every tool")
    p.add_argument("--customers", type=positive, default=FULL["customers"], help="of the generated lake")
    p.add_argument("--days", type=positive, default=FULL["days"], help="of the generated lake")
    p.add_argument("--seed", type=int, default=FULL["seed"], help="of the generated lake")
    p.add_argument(
        "--lake-dir",
        type=Path,
        help="the lake's folder, written where it is not there; without it one below --work, by what it holds",
    )
    p.add_argument("--long-lake-dir", type=Path, help=f"the same for the lake of {LONGER} times the days, for `long`")
    p.add_argument(
        "--bench",
        type=Path,
        default=ROOT.parent / "shared" / "bench" / "features",
        help="folder of the peers, the lake's generator, measure.py and compare.py",
    )
    p.add_argument("--work", type=Path, default=out, help="folder for the lake and what the tools write")
    p.add_argument("--timeout", type=positive, default=1800, help="seconds that one command may take")
    p.add_argument("--quiet-wait", type=int, default=0, help="seconds to wait for a quiet machine before a command")
    p.add_argument("--json", type=Path, help="also write all figures here")
    args = p.parse_args()
    args.bench = args.bench.resolve()
    for file in (args.bench / name for name in ("make_lake.py", "measure.py", "compare.py")):
        if not file.is_file():
            raise Failed(f"`{file}` is not there: the bench needs the peers and the generator of their lake")
    args.work = args.work.resolve()
    args.wanted = {name: getattr(args, name) for name in FULL}
    name = "lake_bench" if args.wanted == FULL else "lake_" + "_".join(map(str, args.wanted.values()))
    args.lake_dir = (args.lake_dir or args.work / name).resolve()
    args.long_lake_dir = (args.long_lake_dir or args.work / f"{name}_{LONGER * args.days}").resolve()
    return args


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not at least 1")
    return number


def lake(args, folder: Path, wanted: dict[str, int], times: int = 1) -> dict:
    """What `lake.json` of a lake says; the lake is generated where it is not there, with so many times the rows."""
    facts = folder / "lake.json"
    if not facts.is_file():
        if folder.exists():
            raise Failed(f"`{folder}` is there and no generated lake: name another folder")
        say(f"generating a lake of {wanted['customers']:,} customers and {wanted['days']} days in {folder}")
        # It gets its name when it is whole.
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        # The generator gives every customer so many rows, however many days there are.
        rows = {f"{table}-per-customer": mean * times for table, mean in ROWS.items()}
        options = [text for name, value in (wanted | rows).items() for text in (f"--{name}", str(value))]
        command = [sys.executable, str(args.bench / "make_lake.py"), *options, "--out", str(part)]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
            raise Failed(f"`{' '.join(command)}` did not end well")
        part.rename(folder)
    found = json.loads(facts.read_text())
    for name, value in wanted.items():
        if found.get(name) != value:
            raise Failed(f"the lake in `{folder}` has {found.get(name)} as its {name}, not {value}: remove it")
    for table, mean in ROWS.items():
        expected = wanted["customers"] * mean * times
        if abs(found[table] / expected - 1) > 0.1:
            raise Failed(f"the lake in `{folder}` has {found[table]:,} {table}, not about {expected:,}: remove it")
    return found


def read_once(folder: Path) -> None:
    """Every file, so that the first tool does not wait for the disk on behalf of the others."""
    for file in folder.rglob("*.parquet"):
        file.read_bytes()


def turns(args, part: str, tools: list[str], runs: int) -> dict[str, Figures]:
    """Runs the tools in turn and returns their medians; what they wrote last stays for the comparison."""
    rows = {tool: [] for tool in tools}
    for run in range(1, runs + 1):
        for tool in tools:
            row = measure(args, part, tool)
            rows[tool].append(row)
            say_row(part, tool, run, runs, row)
    return {tool: medians(found) for tool, found in rows.items()}


def say_row(part: str, tool: str, run: int, runs: int, row: Figures) -> None:
    figures = f"{row.cpu_s:.2f} CPU s, {row.wall_s:.2f} s, {row.peak_rss / MB:.0f} MB"
    say(f"{PARTS[part]}, {tool}, run {run} of {runs}: {figures}")


def medians(rows: list[Figures]) -> Figures:
    fields = Figures.__dataclass_fields__
    return Figures(*(statistics.median(getattr(row, field) for row in rows) for field in fields))


def built(args, part: str, tool: str) -> Path:
    """Where a tool writes: a file, or a folder of one file per date."""
    return args.work / "built" / part / (tool if part == "w12" else f"{tool}.parquet")


def command(args, part: str, tool: str, out: Path) -> list[str]:
    if tool == OURS:
        line = [args.tenure, "features", "build", str(JOB), "--as-of", args.as_of, "--quiet", "--from-source"]
        line += ["--every", f"{STEP_DAYS}d", "--count", str(DATES)] if part == "w12" else []
        line += ["--memory-limit", f"{MEMORY_LIMIT_MIB}MiB"] if part == "memory" else []
    elif part == "w12":
        line = [sys.executable, str(args.bench / f"training_set_{tool}.py"), "--last-as-of", args.as_of]
        line += ["--dates", str(DATES), "--step-days", str(STEP_DAYS), "--lake", str(args.lake_dir)]
    else:
        line = [sys.executable, str(args.bench / f"features_{tool}.py"), "--as-of", args.as_of]
        line += ["--lake", str(args.lake_dir)]
    return [*line, "--threads", str(args.threads), "--out", str(out)]


def measure(args, part: str, tool: str) -> Figures:
    out = built(args, part, tool)
    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    return run_measured(args, f"{part} {tool}", command(args, part, tool, out), {"TENURE_LAKE": args.lake_dir.as_uri()})


def run_measured(args, name: str, line: list[str], env: dict[str, str]) -> Figures:
    limits = ["--timeout", str(args.timeout), "--quiet-wait", str(args.quiet_wait)]
    call = [sys.executable, str(args.bench / "measure.py"), "--name", name, "--log", str(args.log), *limits]
    before = args.log.read_text()
    # It logs one line when the command has ended; what the command prints itself is of no use here.
    subprocess.run([*call, "--", *line], env=os.environ | env, stdout=subprocess.DEVNULL)
    logged = args.log.read_text()[len(before) :].splitlines()
    if not logged:
        raise Failed(f"`{' '.join(line)}` could not be started")
    row = json.loads(logged[-1])
    if row["killed"]:
        raise Unfinished(f"`{' '.join(line)}` was killed: it took more than {args.timeout} s")
    if row["exit"] != 0:
        raise Unfinished(f"`{' '.join(line)}` ended with status {row['exit']}")
    return Figures(row["cpu_s"], row["wall_s"], row["peak_rss_mb"] * MIB, row["others_cpu_s"])


def print_figures(args, measured: Measured) -> None:
    facts = args.lake
    print(
        f"{facts['customers']:,} customers, {facts['orders']:,} orders, {facts['events']:,} events, as of "
        f"{args.as_of}; {args.threads} threads; medians of {args.runs} (W, nights) and {args.runs_w12} (W12)"
    )
    shown = [part for part in ("w", "w12") if part in measured]
    heads = [f"{PARTS[part]} {what}" for part in shown for what in ("CPU s", "wall s", "peak RSS")]
    if shown:
        print("\n| tool | " + " | ".join(heads) + " |")
        print("| --- |" + " ---: |" * len(heads))
    for tool in TOOLS if shown else []:
        cells = [cell for part in shown for cell in cells_of(measured[part].get(tool))]
        name = f"**{tool}**" if tool == OURS else f"{tool} {version(tool)}"
        print(f"| {name} | " + " | ".join(cells) + " |")
    if "memory" in measured:
        cpu_s, wall_s, peak = cells_of(measured["memory"][OURS])
        print(f"\nW with `--memory-limit {MEMORY_LIMIT_MIB}MiB`: {cpu_s} CPU s, {wall_s} s, peak RSS {peak}")
    rest = [(part, tool) for part in ("night", "s3", "long", "plan") for tool in measured.get(part, {})]
    if rest:
        print("\n| ours alone | CPU s | wall s | peak RSS |\n| --- | ---: | ---: | ---: |")
    for part, tool in rest:
        name = PARTS[part] if tool == OURS else f"{PARTS[part]}, {tool}"
        print(f"| {name} | {' | '.join(cells_of(measured[part][tool]))} |")
    busy = [f.others_cpu_s / f.wall_s for tools in measured.values() for f in tools.values() if f.wall_s > 0]
    if busy:
        print(f"\nOther programs kept up to {max(busy):.1f} cores busy: the more, the less do wall times mean.")


def cells_of(figures: Figures | None) -> list[str]:
    if figures is None:
        return ["–"] * 3
    return [f"{figures.cpu_s:.2f}", f"{figures.wall_s:.2f}", f"{figures.peak_rss / GB:.2f} GB"]


def answers(args, measured: Measured) -> list[str]:
    """Compares what we built with what DuckDB built, and a night's file with our W's; returns where they differ."""
    missed, pairs = [], []
    source = built(args, "w", OURS)
    for part in ("night", "s3"):
        if part in measured and source.is_file():
            same = filecmp.cmp(source, built(args, part, OURS), shallow=False)
            print(f"\n{PARTS[part]}, its file beside that of W: {'the same bytes' if same else 'different bytes'}")
            missed += [] if same else [f"{PARTS[part]}: its file is not byte for byte that of W"]
    if DUCKDB in measured.get("w", {}):
        parts = [part for part in ("w", "memory", "night", "s3") if OURS in measured.get(part, {})]
        pairs = [(part, "w", "customer_id") for part in parts]
    if DUCKDB in measured.get("w12", {}):
        pairs.append(("w12", "w12", "customer_id,as_of"))
    for part, theirs, key in pairs:
        ours = as_peers(args, part)
        call = [sys.executable, str(args.bench / "compare.py"), "--key", key]
        call += [str(ours), str(built(args, theirs, DUCKDB))]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True)
        lines = done.stdout.splitlines()
        if done.returncode not in (0, 1) or not lines:
            raise Failed(f"`{' '.join(call)}` ended with status {done.returncode}")
        print(f"\n{PARTS[part]}, ours beside DuckDB's: {lines[-1]}")
        if done.returncode == 1:
            say("\n".join(lines))
            missed.append(f"{PARTS[part]}: our features are not DuckDB's: {lines[0]}")
    return missed


def as_peers(args, part: str) -> Path:
    """A copy of what we built, with the peers' name for the window `lifetime`."""
    ours = built(args, part, OURS)
    copy = args.work / "built" / "compared" / part / ours.name
    files = sorted(ours.glob("as_of=*/part-0.parquet")) if part == "w12" else [ours]
    if part == "w12" and len(files) != DATES:
        raise Failed(f"`{ours}` holds {len(files)} dates, not {DATES}")
    for file in files:
        target = copy / file.relative_to(ours)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = pq.ParquetFile(file)
        schema = pa.schema([f.with_name(re.sub("_lifetime$", "_life", f.name)) for f in source.schema_arrow])
        with pq.ParquetWriter(target, schema) as writer:
            for batch in source.iter_batches():
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    return copy


def verdict(args, measured: Measured) -> list[str]:
    judged = [goal for goal in GOALS if goal.part in args.only and goal.part in measured]
    missed = []
    print("\n| goal | found | at most |\n| --- | ---: | ---: |")
    for goal in judged:
        found, limit = goal.figure(measured), goal.limit
        digits = 0 if limit >= 100 else 3 if limit < 0.5 else 2
        texts = [f"{number:.{digits}f}{goal.unit}" for number in (found, limit)]
        print(f"| {goal.what} | {texts[0]} | {texts[1]} |")
        if found > limit:
            missed.append(f"{goal.what}: {texts[0]}, more than {texts[1]}")
    return missed


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        say(f"error: {failure}")
        sys.exit(2)
