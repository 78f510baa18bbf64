#!/bin/sh
# Run the conformance suite of the distribution specification (a Go program) against the scripted registry.
#
#   sh tests/conformance/run.sh [options of python -m crossmount.testing]
#
# Needs Go and the Go module proxy. Builds and writes in a temporary folder, or in CROSSMOUNT_CONFORMANCE_DIR if
# that is set. The suite reads the OCI_* variables that its README lists.
set -eu

SUITE=github.com/opencontainers/distribution-spec/conformance
VERSION=v0.0.0-20260831232431-97274622c111
PYTHON=${PYTHON:-python3}

folder=${CROSSMOUNT_CONFORMANCE_DIR:-$(mktemp -d)}
mkdir -p "$folder"
if [ ! -x "$folder/conformance" ]; then
    (
        cd "$folder"
        [ -f go.mod ] || go mod init scratch
        go get "$SUITE@$VERSION"
        go build -o conformance "$SUITE"
    )
fi

rm -f "$folder/url"
mkfifo "$folder/url"
"$PYTHON" -m crossmount.testing "$@" >"$folder/url" &
server=$!
stop() {
    kill "$server"
    wait "$server"
    rm -f "$folder/url"
    [ -n "${CROSSMOUNT_CONFORMANCE_DIR:-}" ] || rm -rf "$folder"
}
trap stop EXIT
read -r url <"$folder/url"

cd "$folder"
OCI_TLS=disabled OCI_REGISTRY=${url#http://} OCI_RESULTS_DIR=$folder/results ./conformance
sed -n 's/.*<testsuites \([^>]*\)>.*/\1/p' results/junit.xml
