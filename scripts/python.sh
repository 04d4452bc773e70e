#!/usr/bin/env bash
# Makes a virtual environment in the cache and prints its folder:
#   scripts/python.sh           of the tests (Airflow, moto's S3 server, DuckDB)
#   scripts/python.sh corpus    of the tests on lakes as other tools write them (pandas, PyArrow, Polars, DuckDB, delta-rs)
#   scripts/python.sh bench     of the benchmarks (NumPy, pandas, PyArrow)
#   scripts/python.sh text      of the benchmark on texts (PyTorch, transformers)
#   scripts/python.sh features  of the benchmark on features (DuckDB, Polars, PyArrow)
# The versions are those of the lock; a changed lock or another Python makes it anew.
# Quiet when there is nothing to do; safe to interrupt and repeat.
set -euo pipefail

CACHE=${TENURE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "python: $*" >&2; }
case ${1:-tests} in
    tests)
        LOCK=$ROOT/tests/python/requirements.lock DEST=$CACHE/venv
        WHAT="Airflow, moto and DuckDB for the tests (800 MB, two minutes, once)"
        ;;
    corpus)
        LOCK=$ROOT/tests/corpus/requirements.lock DEST=$CACHE/corpus-venv
        WHAT="pandas, PyArrow, Polars, DuckDB and delta-rs for the tests on lakes of other tools (600 MB, once)"
        ;;
    bench)
        LOCK=$ROOT/benches/python/requirements.lock DEST=$CACHE/bench-venv
        WHAT="NumPy, pandas and PyArrow for the benchmarks (400 MB, once)"
        ;;
    text)
        LOCK=$ROOT/benches/python/text.lock DEST=$CACHE/text-venv
        WHAT="PyTorch and transformers for the benchmark on texts (5 GB, several minutes, once)"
        ;;
    features)
        LOCK=$ROOT/benches/python/features.lock DEST=$CACHE/features-venv
        WHAT="DuckDB, Polars and PyArrow for the benchmark on features (500 MB, once)"
        ;;
    *)
        say "\`$1\` is none of \`tests\`, \`corpus\`, \`bench\`, \`text\`, \`features\`"
        exit 1
        ;;
esac

python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
    say "Python 3.10 or newer is needed as \`python3\`; found \`$(python3 --version 2>&1 || true)\`"
    exit 1
}
STATE="$(python3 -c 'import sys; print(sys.base_prefix, sys.version.split()[0])') $(sha256sum <"$LOCK")"
ready() { [ "$(cat "$DEST/.complete" 2>/dev/null)" = "$STATE" ]; }

if ! ready; then
    mkdir -p "$CACHE"
    exec 9>"$DEST.lock"
    flock 9 # another one may be at it
    if ! ready; then
        say "installing $WHAT"
        # What a stopped installation left for the same state is kept and completed.
        [ "$(cat "$DEST/.wanted" 2>/dev/null)" = "$STATE" ] || rm -rf "$DEST"
        python3 -m venv "$DEST" >&2 || {
            say "hint: on Debian and Ubuntu the module comes with \`apt-get install python3-venv\`"
            exit 1
        }
        echo "$STATE" >"$DEST/.wanted"
        "$DEST/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$LOCK" >&2
        "$DEST/bin/python" -m pip check >/dev/null || {
            "$DEST/bin/python" -m pip check >&2 || true
            exit 1
        }
        echo "$STATE" >"$DEST/.complete"
        say "ready in $DEST"
    fi
fi
echo "$DEST"
