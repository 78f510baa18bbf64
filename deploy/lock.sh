#!/bin/sh
# Writes requirements.lock (what the image runs) and build.lock (what builds the wheel): exact versions, with hashes.
# Run it to take newer versions into the image; tests check that the locks fit pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
. deploy/common.sh

make_venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
lock() {
    output=$1
    shift
    say "writing deploy/$output"
    .venv/bin/uv pip compile --quiet --generate-hashes --no-annotate --python-version 3.13 --python-platform linux \
        --custom-compile-command "sh deploy/lock.sh" --output-file "deploy/$output" --upgrade "$@"
}
lock requirements.lock --extra cli --extra dashboard --extra fast --extra proxy pyproject.toml
requires=$(mktemp)
trap 'rm -f "$requires"' EXIT
.venv/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > "$requires"
lock build.lock "$requires"
