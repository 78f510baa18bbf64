#!/bin/sh
# Installs crossmount in .venv with its test tools and runs the tests; arguments are passed to pytest.
# As root with apt it also installs the programs that tests run; a test whose program is missing is skipped.
set -eu
cd "$(dirname "$0")/.."
. deploy/common.sh

install_programs
make_venv .venv
say "installing crossmount and its test tools"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev --group clients
.venv/bin/python -m compileall -q src # as pip does with a wheel: without it each process may compile all modules
say "testing"
rm -f .coverage .coverage.*
COVERAGE_PROCESS_START=pyproject.toml .venv/bin/python -m pytest --numprocesses=auto --cov --cov-report=term --cov-fail-under=95 "$@"
