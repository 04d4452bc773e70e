#!/usr/bin/env python3
"""Fine-tuning on banking77 beside `transformers`, with the same recipe in one run.

    make bench-text                                        everything (long on two cores)
    make bench-text BENCH_OPTIONS='--rows 2000 --epochs 2'   a quick look

The recipe is that of `jobs/review_intent.yaml`: AdamW at a peak of 5e-5 after a linear warm-up, then linear to 0, no decay
of biases and norms, gradients clipped at norm 1; the mean of the last layer's tokens, dropout, a dense head. It is done
by PyTorch and `transformers` here, and by `tenure train` with `tune: full`, `lora` and `frozen`. Both sides take the
texts of one length into a batch, and the shuffling is each side's own. Every accuracy is that of the test texts.

Prints a Markdown table and the verdict; exit status 1 when a goal is missed, 2 when something could not be run.
"""

import argparse
import csv
import json
import math
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from transformers import BertModel, PreTrainedTokenizerFast, get_linear_schedule_with_warmup, logging

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "jobs" / "review_intent.yaml"
# How far full fine-tuning may stay below transformers, and LoRA below full fine-tuning, in points of accuracy.
BELOW_PEER = 0.5
BELOW_FULL = 1.5
# LoRA's trainable parameters, head included, over those of full fine-tuning.
LORA_SHARE = 0.03
LEARNING_RATE = 5e-5
CLIP_NORM = 1.0
STRETCH = 32


class Failed(Exception):
    """Something could not be run at all."""


@dataclass
class Result:
    model: str
    accuracy: float
    trainable: int
    parameters: int
    seconds: float


def main() -> int:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = yaml.safe_load(JOB.read_text())["text_classifier"]
    recipe["epochs"] = args.epochs or recipe["epochs"]
    data = tables(args)
    say(f"{len(data['train'])} texts to learn from, {len(data['test'])} to report on, {recipe['epochs']} epochs")
    results = [transformers(args, recipe, data)]
    results += [tenure(args, recipe, mode) for mode in ("full", "lora", "frozen")]
    print("| model | trainable parameters | share | accuracy | seconds |\n| --- | ---: | ---: | ---: | ---: |")
    for r in results:
        share = f"{100 * r.trainable / r.parameters:.2f} %"
        print(f"| {r.model} | {r.trainable:,} | {share} | {100 * r.accuracy:.2f} % | {r.seconds:.0f} |")
    missed = verdict(*results[:3])
    print("\n" + ("\n".join(f"missed: {goal}" for goal in missed) or "every goal is met"))
    return 1 if missed else 0


def verdict(peer: Result, full: Result, lora: Result) -> list[str]:
    ratio, share = full.accuracy / peer.accuracy, lora.trainable / full.trainable
    behind, below = 100 * (peer.accuracy - full.accuracy), 100 * (full.accuracy - lora.accuracy)
    print(f"\nfull fine-tuning has {ratio:.4f} of the accuracy of transformers ({-behind:+.2f} points)")
    print(f"LoRA trains {100 * share:.2f} % of the parameters ({-below:+.2f} points)")
    goals = [
        (behind <= BELOW_PEER, f"full fine-tuning is at most {BELOW_PEER} points below transformers"),
        (below <= BELOW_FULL, f"LoRA is at most {BELOW_FULL} points below full fine-tuning"),
        (share < LORA_SHARE, f"LoRA trains less than {100 * LORA_SHARE:.0f} % of the parameters"),
    ]
    return [goal for met, goal in goals if not met]


def arguments():
    shared = ROOT.parent / "shared"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tenure", default="tenure", help="the program")
    p.add_argument("--data", type=Path, default=shared / "data" / "banking77", help="folder of train.csv and test.csv")
    p.add_argument("--encoder", type=Path, default=ROOT / "models" / "all-MiniLM-L6-v2", help="the encoder's folder")
    p.add_argument("--work", type=Path, default=ROOT / "out" / "bench-text", help="folder for models")
    p.add_argument("--rows", type=int, help="only so many texts to learn from")
    p.add_argument("--epochs", type=int, help="in place of the job's")
    p.add_argument("--threads", type=int, help="in place of all cores")
    args = p.parse_args()
    for path in (args.data / "train.csv", args.data / "test.csv", args.encoder / "config.json"):
        if not path.is_file():
            raise Failed(f"`{path}` is not there")
    args.work = args.work.resolve()
    return args


def tables(args) -> dict[str, list[tuple[str, str]]]:
    """The texts with their labels, as both sides read them: from the folder of the work when there are fewer."""
    args.lake = args.data.resolve().parent
    if args.rows:
        args.lake = args.work / "data"
        (args.lake / "banking77").mkdir(parents=True, exist_ok=True)
        for name, rows in [("train", args.rows), ("test", None)]:
            lines = read(args.data / f"{name}.csv")
            random.Random(1).shuffle(lines)
            with open(args.lake / "banking77" / f"{name}.csv", "w", newline="") as file:
                csv.writer(file).writerows([("text", "category"), *lines[:rows]])
    elif args.data.name != "banking77":
        raise Failed(f"the folder `{args.data}` is not called `banking77`, as the job has it")
    return {name: read(args.lake / "banking77" / f"{name}.csv") for name in ("train", "test")}


def read(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def tenure(args, recipe: dict, mode: str) -> Result:
    """Our program with the job file, as a user would."""
    job, models = JOB, args.work / mode
    if args.epochs:
        text = yaml.safe_load(JOB.read_text())
        text["text_classifier"]["epochs"] = recipe["epochs"]
        job = args.work / "jobs" / JOB.name
        job.parent.mkdir(parents=True, exist_ok=True)
        job.write_text(yaml.safe_dump(text, sort_keys=False))
    command = [args.tenure, "train", str(job), "--json", "--device", "cpu"]
    command += ["--threads", str(args.threads)] if args.threads else []
    settings = {
        "TENURE_TUNE": mode,
        "TENURE_DATA": args.lake.as_uri(),
        "TENURE_MODELS": str(models),
        "TENURE_ENCODER": str(args.encoder.resolve()),
    }
    say(" ".join([f"TENURE_TUNE={mode}", *command]))
    began = time.monotonic()
    done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failed(f"`{' '.join(command)}` ended with status {done.returncode}")
    seconds = time.monotonic() - began
    tuned = json.loads((models / "review_intent" / "manifest.json").read_text())["tuned"]
    accuracy = json.loads(done.stdout)["accuracy"]
    return Result(f"tenure, {mode}", accuracy, tuned["trainable"], tuned["parameters"], seconds)


class Classifier(torch.nn.Module):
    """The mean of the last layer's tokens, dropout, a dense head."""

    def __init__(self, folder: Path, labels: int):
        super().__init__()
        self.encoder = BertModel.from_pretrained(folder, add_pooling_layer=False)
        self.dropout = torch.nn.Dropout(self.encoder.config.hidden_dropout_prob)
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, labels)
        torch.nn.init.normal_(self.head.weight, std=self.encoder.config.initializer_range)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, batch):
        last = self.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(last.dtype)
        return self.head(self.dropout((last * weight).sum(1) / weight.sum(1)))


def transformers(args, recipe: dict, data) -> Result:
    """PyTorch's AdamW over the network of `transformers`."""
    began = time.monotonic()
    logging.set_verbosity_error()
    torch.manual_seed(recipe["seed"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(args.encoder / "tokenizer.json"), pad_token="[PAD]")
    cut = {"truncation": True, "max_length": recipe["max_length"]}
    ids, test = (tokenizer([text for text, _ in data[name]], **cut)["input_ids"] for name in ("train", "test"))
    names = sorted({label for _, label in data["train"]})
    targets = torch.tensor([names.index(label) for _, label in data["train"]])
    model = Classifier(args.encoder, len(names))
    still = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    decayed = [p for n, p in model.named_parameters() if not (n.endswith("bias") or "LayerNorm" in n)]
    groups = [{"params": decayed, "weight_decay": recipe["weight_decay"]}, {"params": still, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=float(recipe.get("learning_rate", LEARNING_RATE)))
    epochs = [batches([len(row) for row in ids], recipe, epoch) for epoch in range(recipe["epochs"])]
    steps = sum(len(epoch) for epoch in epochs)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(recipe["warmup"] * steps), steps)
    for number, epoch in enumerate(epochs, 1):
        model.train()
        total = 0.0
        for rows in epoch:
            batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            loss = torch.nn.functional.cross_entropy(model(batch), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            schedule.step()
            total += loss.item()
        say(f"transformers: epoch {number}, loss {total / len(epoch):.3f}, {time.monotonic() - began:.0f} s")
    right = 0
    model.eval()
    with torch.no_grad():
        order = sorted(range(len(test)), key=lambda row: len(test[row]))
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            guesses = model(tokenizer.pad({"input_ids": [test[row] for row in rows]}, return_tensors="pt")).argmax(1)
            right += sum(names[guess] == data["test"][row][1] for guess, row in zip(guesses, rows))
    count = sum(p.numel() for p in model.parameters())
    return Result("transformers, full", right / len(test), count, count, time.monotonic() - began)


def batches(lengths: list[int], recipe: dict, epoch: int) -> list[list[int]]:
    """Every row once, in an order of the seed's; within a stretch of rows, those of like length share a batch."""
    shuffle = random.Random(f"{recipe['seed']} {epoch}").shuffle
    rows, size, found = list(range(len(lengths))), recipe["batch"], []
    shuffle(rows)
    for start in range(0, len(rows), size * STRETCH):
        stretch = sorted(rows[start : start + size * STRETCH], key=lambda row: lengths[row])
        found += [stretch[at : at + size] for at in range(0, len(stretch), size)]
    shuffle(found)
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        say(f"error: {error}")
        sys.exit(2)
