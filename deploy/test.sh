#!/bin/sh
# Sets crossmount up in .venv with its test tools and passes the tests; arguments go to pytest.
# As root with apt it installs the real parts too; without them the tests that need them say so and skip.
set -eu
cd "$(dirname "$0")/.."
. deploy/common.sh

missing=
for program in docker-registry skopeo redis-server buildah podman containerd openssl; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
if [ -n "$missing" ] && may_apt; then
    say "installing the real parts:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
elif [ -n "$missing" ]; then
    say "not installed, so the tests that need them skip:$missing"
fi

make_venv .venv
say "installing crossmount and its test tools"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev --group clients
say "testing"
rm -f .coverage .coverage.*
COVERAGE_PROCESS_START=pyproject.toml .venv/bin/python -m pytest --numprocesses=auto --cov --cov-report=term --cov-fail-under=95 "$@"
