#!/bin/sh
# Sets crossmount up in .venv and runs its demo. Needs Python 3.11+ and a package index, nothing else.
set -eu
cd "$(dirname "$0")/.."
. deploy/common.sh

make_venv .venv
say "installing crossmount"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
say "running: crossmount demo"
.venv/bin/crossmount demo "$@"
say "now push an image of yours: .venv/bin/crossmount push --help"
