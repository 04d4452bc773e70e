#!/usr/bin/env bash
# Makes the virtual environment of the tests (Airflow, moto's S3 server, DuckDB) in the cache and prints its folder.
# The versions are those of tests/python/requirements.lock; a changed lock or another Python makes it anew.
# Quiet when there is nothing to do; safe to interrupt and repeat.
set -euo pipefail

CACHE=${TENURE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure}
LOCK=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/tests/python/requirements.lock
DEST=$CACHE/venv
say() { echo "python: $*" >&2; }

python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || {
    say "Python 3.10 or newer is needed as \`python3\`; found \`$(python3 --version 2>&1 || true)\`"
    exit 1
}
STATE="$(python3 -c 'import sys; print(sys.base_prefix, sys.version.split()[0])') $(sha256sum <"$LOCK")"
ready() { [ "$(cat "$DEST/.complete" 2>/dev/null)" = "$STATE" ]; }

if ! ready; then
    mkdir -p "$CACHE"
    exec 9>"$CACHE/venv.lock"
    flock 9 # another `make test` may be at it
    if ! ready; then
        say "installing Airflow, moto and DuckDB for the tests (800 MB, two minutes, once)"
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
