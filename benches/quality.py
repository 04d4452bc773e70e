#!/usr/bin/env python3
"""Prediction quality beside the peers: train, predict and judge on three public tasks.

    make bench-quality                      all tasks, seeds 0 1 2
    benches/quality.py --tasks cdnow_90d --seeds 0

For every task and seed: `tenure train` and `tenure run` with the task's job file, as a user would. The published
predictions are judged by the bench's own evaluator (`evaluate.py`), beside the peers' stored predictions. Prints
Markdown tables and the verdict; exit status 1 when a goal is missed, 2 when something could not be run.

The model sees rows before the task's as-of date alone; `--leak-check` proves it: the predictions must be the same on
a lake cut at that date.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS = "tenure"
JOBS = {"cdnow_39w": "jobs/cdnow_39w.yaml", "cdnow_90d": "jobs/cdnow.yaml", "online_retail": "jobs/online_retail.yaml"}
PEERS = [
    "persistence",
    "rfm_glm",
    "bgnbd",
    "pareto",
    "lgbm_hurdle",
    "lgbm_tweedie",
    "catboost_hurdle",
    "ziln_mlp",
    "tabm_net",
    "blend_lgbm_tabm",
    "lgbm_recent",
]
# The gradient boosting peers: their bias is what a learned model has without knowing the level to come.
BOOSTED = ["lgbm_hurdle", "lgbm_tweedie", "catboost_hurdle", "lgbm_recent"]
# Metric, heading, direction: 1 more is better, -1 less is better.
RANKED = [
    ("gini_norm", "nGini", 1),
    ("churn_auc", "AUC", 1),
    ("churn_ap", "AP", 1),
    ("churn_logloss", "log loss", -1),
    ("churn_brier", "Brier", -1),
    ("decile_wape", "decile WAPE", -1),
    ("total_bias", "|bias|", -1),
]
COMPARED = ["gini_norm", "churn_auc", "churn_logloss"]
MEAN_RANK = 2.5
COVERAGE = (0.77, 0.83)


@dataclass
class Task:
    name: str
    as_of: str
    horizon: int
    truth: pd.DataFrame


class Failed(Exception):
    """Something could not be run at all."""


def main() -> int:
    args = arguments()
    sys.path.insert(0, str(args.bench))
    args.work.mkdir(parents=True, exist_ok=True)
    missed, ranks, figures = [], [], {}
    for name in args.tasks:
        task = read_task(args.lakes, name)
        seconds, coverage = [], []
        for seed in args.seeds:
            spent, covered = predict(args, task, seed)
            seconds.append(spent)
            coverage.append(covered)
        table = judge(args, task)
        figures[name] = dict(metrics=table, train_seconds=float(np.median(seconds)), coverage=float(np.mean(coverage)))
        ranks.append(print_task(task, table, seconds, coverage))
        missed += missed_of_task(task, table, float(np.mean(coverage)))
        lost, ties = duels(args, task, table)
        print(ties)
        missed += lost
    mean_rank = float(np.mean(np.concatenate(ranks)))
    print(
        f"\nMean rank over {sum(map(len, ranks))} (task, metric) pairs among {len(PEERS) + 1} models: {mean_rank:.2f} "
        f"(goal: at most {MEAN_RANK})"
    )
    if mean_rank > MEAN_RANK:
        missed.append(f"the mean rank is {mean_rank:.2f}, more than {MEAN_RANK}")
    if args.json:
        args.json.write_text(json.dumps(dict(mean_rank=mean_rank, tasks=figures, missed=missed), indent=1) + "\n")
    for line in missed:
        print(f"missed: {line}")
    print("all goals met" if not missed else f"{len(missed)} goals missed")
    return 1 if missed else 0


def arguments():
    shared = ROOT.parent / "shared"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tenure", default="tenure", help="the program")
    p.add_argument("--lakes", type=Path, default=shared / "data" / "lakes", help="folder of the tasks' lakes")
    p.add_argument("--bench", type=Path, default=shared / "bench" / "quality", help="folder of evaluate.py and pred/")
    p.add_argument(
        "--work", type=Path, default=ROOT / "out" / "bench-quality", help="folder for models and predictions"
    )
    p.add_argument("--tasks", nargs="+", choices=list(JOBS), default=list(JOBS))
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--rounds", type=int, default=300, help="bootstrap resamples")
    p.add_argument("--leak-check", action="store_true", help="train again on a lake cut at the as-of date")
    p.add_argument("--json", type=Path, help="also write all figures here")
    args = p.parse_args()
    for folder in (args.lakes, args.bench):
        if not folder.is_dir():
            raise Failed(f"`{folder}` is not there: the bench needs the tasks' lakes and the peers' predictions")
    return args


def read_task(lakes: Path, name: str) -> Task:
    spec = json.loads((lakes / name / "task.json").read_text())
    truth = pd.read_parquet(lakes / name / "truth.parquet").sort_values("customer_id")
    return Task(name, spec["as_of"], spec["horizon_days"], truth)


def predict(args, task: Task, seed: int):
    """Trains and predicts; returns the seconds of the training and the coverage of the 80 % interval."""
    folder = args.work / task.name / f"seed{seed}"
    started = time.monotonic()
    tenure(args, task, seed, folder, args.lakes.parent, "train")
    seconds = time.monotonic() - started
    predictions = published(args, task, seed, folder, args.lakes.parent)
    out = args.work / "pred" / task.name / OURS
    out.mkdir(parents=True, exist_ok=True)
    predictions.to_parquet(out / f"pred.seed{seed}.parquet", index=False)
    if args.leak_check and seed == args.seeds[0]:
        leak_check(args, task, seed, predictions)
    evaluation = json.loads(tenure(args, task, seed, folder, args.lakes.parent, "evaluate"))
    return seconds, metric_of(evaluation, f"ltv_{task.horizon}d", "interval_coverage")


def tenure(args, task: Task, seed: int, folder: Path, data: Path, command: str) -> str:
    env = dict(
        os.environ,
        TENURE_SEED=str(seed),
        TENURE_MODELS=str(folder / "models"),
        TENURE_OUT=f"file://{folder / 'out'}",
        TENURE_DATA=f"file://{data}",
    )
    call = [args.tenure, command, JOBS[task.name], "--as-of", task.as_of, "--json", "--quiet"]
    done = subprocess.run(call, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):
        raise Failed(f"`{' '.join(map(str, call))}` ended with {done.returncode}")
    return done.stdout


def published(args, task: Task, seed: int, folder: Path, data: Path) -> pd.DataFrame:
    shutil.rmtree(folder / "out", ignore_errors=True)
    tenure(args, task, seed, folder, data, "run")
    (file,) = (folder / "out").glob(f"*/predictions/ds={task.as_of}/part-00000.parquet")
    table = pq.read_table(file, partitioning=None).to_pandas()
    names = {f"ltv_{task.horizon}d": "value", f"churn_{task.horizon}d": "p_churn"}
    return table[["customer_id", *names]].rename(columns=names)


def leak_check(args, task: Task, seed: int, expected: pd.DataFrame):
    """The rows from the as-of date on may change nothing."""
    folder = args.work / task.name / "cut"
    lake = folder / "data" / "lakes" / task.name / "orders"
    shutil.rmtree(folder, ignore_errors=True)
    lake.mkdir(parents=True)
    end = pd.Timestamp(task.as_of, tz="UTC")
    for file in sorted((args.lakes / task.name / "orders").glob("*.parquet")):
        table = pq.read_table(file)
        times = table["ordered_at"].to_pandas()
        pq.write_table(table.filter((times < end).to_numpy()), lake / file.name)
    tenure(args, task, seed, folder, folder / "data", "train")
    found = published(args, task, seed, folder, folder / "data")
    if not found.equals(expected):
        raise Failed(f"{task.name}: rows from {task.as_of} on changed a prediction")
    print(f"{task.name}: on a lake cut at {task.as_of} every prediction is the same", file=sys.stderr)


def metric_of(evaluation: dict, head: str, metric: str) -> float:
    for found in evaluation["heads"]:
        if found["head"] == head:
            return next(m["metrics"][metric] for m in found["models"] if m["model"] == "model")
    raise Failed(f"the evaluation has no head `{head}`")


def predictions_of(args, task: Task, model: str) -> list:
    base = args.work / "pred" if model == OURS else args.bench / "pred"
    files = sorted((base / task.name / model).glob("pred*.parquet"))
    if model == OURS:
        files = [f for f in files if f.stem in {f"pred.seed{s}" for s in args.seeds}]
    return [pd.read_parquet(f) for f in files]


def judge(args, task: Task) -> dict:
    """Model → metric → mean over its seeds."""
    from evaluate import evaluate

    table = {}
    for model in [OURS, *PEERS]:
        found = [evaluate(task.truth, p) for p in predictions_of(args, task, model)]
        if found:
            table[model] = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
    return table


def rank(table: dict, metric: str, direction: int) -> float:
    """Our place among all models, 1 the best; equal figures to four digits share their mean place."""
    figures = {m: direction * round(row[metric], 4) for m, row in table.items()}
    ours = figures.pop(OURS)
    return 1 + sum(f > ours for f in figures.values()) + 0.5 * sum(f == ours for f in figures.values())


def print_task(task: Task, table: dict, seconds: list, coverage: list) -> np.ndarray:
    ranks = [rank(table, metric, direction) for metric, _, direction in RANKED]
    print(f"\n## {task.name}: as of {task.as_of}, {task.horizon} days, {len(task.truth):,} customers\n")
    print("| model | " + " | ".join(heading for _, heading, _ in RANKED) + " | bias |")
    print("|---|" + "---:|" * (len(RANKED) + 1))
    for model, row in table.items():
        cells = [f"{row[metric]:.4f}" for metric, _, _ in RANKED] + [f"{row['total_bias_signed']:+.3f}"]
        name = f"**{model}**" if model == OURS else model
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("| our place | " + " | ".join(f"{r:g}" for r in ranks) + " | |")
    print(f"\nThe 80 % interval covers {100 * np.mean(coverage):.1f} %; training takes {np.median(seconds):.0f} s.")
    return np.array(ranks)


def missed_of_task(task: Task, table: dict, coverage: float) -> list:
    missed = []
    bias, limit = table[OURS]["total_bias"], 0.5 * float(np.median([table[m]["total_bias"] for m in BOOSTED]))
    if bias > limit:
        missed.append(
            f"{task.name}: |total bias| {bias:.3f} is more than {limit:.3f}, half of the boosted peers' median"
        )
    if not COVERAGE[0] <= coverage <= COVERAGE[1]:
        missed.append(
            f"{task.name}: the 80 % interval covers {100 * coverage:.1f} %, not {COVERAGE[0]:.0%} to {COVERAGE[1]:.0%}"
        )
    return missed


def duels(args, task: Task, table: dict):
    """Paired bootstrap over customers against every peer: where a peer is better beyond doubt, and a line of the closest."""
    import evaluate as ev

    value, churned = task.truth.value.to_numpy(float), task.truth.churned.to_numpy(float)
    measure = dict(
        gini_norm=lambda i, v, p: ev.normalized_gini(value[i], v[i]),
        churn_auc=lambda i, v, p: ev.auc(churned[i], p[i]),
        churn_logloss=lambda i, v, p: -ev.log_loss(churned[i], p[i]),
    )
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(value), len(value)) for _ in range(args.rounds)]

    def scores(model: str) -> dict:
        rows = [p.set_index("customer_id").loc[task.truth.customer_id] for p in predictions_of(args, task, model)]
        arrays = [(r.value.to_numpy(), r.p_churn.to_numpy()) for r in rows]
        return {k: np.array([np.mean([f(i, v, p) for v, p in arrays]) for i in draws]) for k, f in measure.items()}

    ours, lost, won, tied = scores(OURS), [], 0, 0
    for peer in (m for m in PEERS if m in table):
        theirs = scores(peer)
        for metric in COMPARED:
            low, high = np.percentile(ours[metric] - theirs[metric], [2.5, 97.5])
            won, tied = won + (low > 0), tied + (low <= 0 <= high)
            if high < 0:
                lost.append(f"{task.name}: {peer} is better in {metric} ({-high:.4f} to {-low:.4f})")
    return lost, (
        f"\nPaired bootstrap, {len(COMPARED)} metrics × {len(table) - 1} peers: better {won}, no difference {tied}, "
        f"worse {len(lost)}."
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(2)
