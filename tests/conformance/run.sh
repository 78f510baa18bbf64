#!/bin/sh
# Run both conformance suites of the distribution specification (Go programs) straight and through the proxy, and
# print which of their tests end worse through it. The status is 1 if any does.
#
#   sh tests/conformance/run.sh [REGISTRY ...]
#
# A REGISTRY is `scripted` (crossmount.testing), a program of the distribution project such as docker-registry, or
# `distribution`, which is built here. Without arguments: all three, docker-registry if it is on the PATH.
# Needs Go and the Go module proxy. Builds in a temporary folder, or in CROSSMOUNT_CONFORMANCE_DIR if that is set,
# where the next run finds the programs and where reports and logs stay.
set -eu

SUITE=github.com/opencontainers/distribution-spec/conformance
NEW=v0.0.0-20260831232431-97274622c111
OLD=v0.0.0-20231101194043-f2182352d4cc
DISTRIBUTION=github.com/distribution/distribution/v3/cmd/registry@v3.1.2
PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "$0")" && pwd)

folder=${CROSSMOUNT_CONFORMANCE_DIR:-$(mktemp -d)}
[ -n "${CROSSMOUNT_CONFORMANCE_DIR:-}" ] || trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
GOFLAGS="-p=1 -mod=mod"
export GOFLAGS

# module FOLDER VERSION: make a module that needs the suite
module() {
    mkdir -p "$folder/$1"
    cd "$folder/$1"
    [ -f go.mod ] || go mod init scratch
    echo "package scratch" >scratch_test.go
    go get -t "$SUITE@$2"
}

[ -x "$folder/new/conformance" ] || (module new "$NEW" && nice go build -o conformance "$SUITE")
[ -x "$folder/old/conformance" ] || (module old "$OLD" && nice go test -c -o conformance "$SUITE")

if [ $# = 0 ]; then
    set -- scripted distribution
    if command -v docker-registry >/dev/null; then set -- "$@" docker-registry; fi
fi
for registry; do # `distribution` becomes the program that is built here
    shift
    if [ "$registry" = distribution ]; then
        registry=$folder/registry
        [ -x "$registry" ] || GOBIN=$folder nice go install "$DISTRIBUTION"
    fi
    set -- "$@" "$registry"
done

keep=$(mktemp -d "$folder/run-XXXXXX")/reports
"$PYTHON" "$here/compare.py" --new "$folder/new/conformance" --old "$folder/old/conformance" --keep "$keep" "$@"
