# Functions of try.sh, test.sh, .ci/weekly and .ci/nightly: find Python 3.11+, make a virtual environment, install test programs.
# Source it at the top of the project.

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'crossmount: %s\n' "$*" >&2; exit 1; }

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found: install one, or name it in PYTHON"
}

may_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

# make_venv FOLDER: makes a virtual environment with a pip that supports dependency groups.
make_venv() {
    python=$(find_python) || exit 1
    if ! "$1/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        say "making a virtual environment in $1 with $python"
        rm -rf "$1"
        if ! "$python" -m venv "$1" 2>/dev/null; then
            rm -rf "$1"
            may_apt || fail "this Python lacks the venv module: install it (Debian: apt-get install python3-venv)"
            apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
            "$python" -m venv "$1"
        fi
    fi
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
}

# install_programs: as root with apt, installs the missing programs that the tests run.
install_programs() {
    missing=
    for program in docker-registry skopeo redis-server buildah podman containerd openssl chromium curl git jq; do
        command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
    done
    command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
    if [ -n "$missing" ] && may_apt; then
        say "installing the programs that tests run:$missing"
        apt-get update -qq
        # shellcheck disable=SC2086 # a list of names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    elif [ -n "$missing" ]; then
        say "not installed, so the tests that need them skip:$missing"
    fi
}
