#!/usr/bin/env bash
# Puts a lean libtorch into the cache and prints its folder.
#
# The CPU part of PyPI's `torch` wheel is 437 MB where the whole wheel with its CUDA packages is 4.7 GB. The two NVIDIA
# libraries are there because the wheel's libtorch_cpu.so links to them; they need no driver.
# A `LIBTORCH` of the right version is used as it is. Quiet when there is nothing to do; safe to interrupt and repeat.
set -euo pipefail

VERSION=2.11.0
CACHE=${TENURE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure}
say() { echo "libtorch: $*" >&2; }

if [ -n "${LIBTORCH:-}" ] && [ "$LIBTORCH" != "$CACHE/libtorch-$VERSION" ]; then
    found=$(cat "$LIBTORCH/build-version" 2>/dev/null || echo none)
    case $found in
    "$VERSION" | "$VERSION"+*)
        echo "$LIBTORCH"
        exit 0
        ;;
    *)
        say "\`LIBTORCH=$LIBTORCH\` holds version \`$found\`, and the build needs \`$VERSION\`"
        say "hint: unset LIBTORCH to use the cached copy, or point it to libtorch $VERSION"
        exit 1
        ;;
    esac
fi

DEST=$CACHE/libtorch-$VERSION
if [ -f "$DEST/build-version" ]; then
    echo "$DEST"
    exit 0
fi

[ "$(uname -sm)" = "Linux x86_64" ] || {
    say "no lean package is known for $(uname -sm); set LIBTORCH to a libtorch $VERSION"
    exit 1
}

WHEELS=$CACHE/wheels
mkdir -p "$WHEELS"
cat >"$WHEELS/libtorch.txt" <<PINS
torch==$VERSION --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
PINS
say "fetching libtorch $VERSION from PyPI (550 MB, once)"
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux2014_x86_64 --dest "$WHEELS" --requirement "$WHEELS/libtorch.txt" >&2

# Unpacked beside the goal and renamed at the end, so that a half-made folder is never taken for a whole one.
PART=$(mktemp -d "$CACHE/libtorch.XXXXXX")
trap 'rm -rf "$PART"' EXIT
python3 - "$WHEELS" "$PART" <<'PYTHON'
import glob, pathlib, sys, zipfile

wheels, dest = sys.argv[1], pathlib.Path(sys.argv[2])
LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
for pattern in ("torch-2.11.0-*", "nvidia_cuda_runtime-13.0.96-*", "nvidia_cuda_cupti-13.0.85-*"):
    (wheel,) = glob.glob(f"{wheels}/{pattern}.whl")
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = pathlib.PurePosixPath(entry.filename)
            if entry.filename.startswith("torch/include/") and not entry.is_dir():
                goal = dest / path.relative_to("torch")
            elif path.parent.name == "lib" and path.name in LIBRARIES:
                goal = dest / "lib" / path.name
            else:
                continue
            goal.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(goal, "wb") as target:
                while block := source.read(1 << 24):
                    target.write(block)
PYTHON
echo 'INPUT(libtorch_cpu.so)' >"$PART/lib/libtorch.so"
echo "$VERSION" >"$PART/build-version"
chmod 755 "$PART"
mv -T "$PART" "$DEST"
trap - EXIT
rm -f "$WHEELS"/torch-*.whl "$WHEELS"/nvidia_cuda_*.whl
say "ready in $DEST"
echo "$DEST"
