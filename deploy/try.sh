#!/bin/sh
# Installs crossmount in .venv and runs its demo. Needs only Python 3.11+ and a package index.
set -eu
cd "$(dirname "$0")/.."
. deploy/common.sh

make_venv .venv
say "installing crossmount"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
.venv/bin/python -m compileall -q src # as pip does with a wheel: without it each process may compile all modules
say "running: crossmount demo"
trap : INT  # Ctrl-C ends the demo's page, and this script goes on
.venv/bin/crossmount demo "$@"
say "now push an image of yours: .venv/bin/crossmount push --help"
