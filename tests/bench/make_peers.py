"""Build the other tools of the benches with Go, in the releases that the documentation's tables name.

    python tests/bench/make_peers.py FOLDER      # then: PATH=FOLDER:$PATH python tests/bench/peers.py

It needs Go on the PATH, its module proxy, and some minutes. What is already in FOLDER is not built again.
"""

import os
import subprocess
import sys
from pathlib import Path

PEERS = {
    "crane": "github.com/google/go-containerregistry/cmd/crane@v0.22.1",
    "regctl": "github.com/regclient/regclient/cmd/regctl@v0.11.7",
    "regsync": "github.com/regclient/regclient/cmd/regsync@v0.11.7",
    "oras": "oras.land/oras/cmd/oras@v1.3.6",
}


def main() -> None:
    """Build the tools."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in PEERS.items():
        if not (folder / name).exists():
            print(f"{name}: go install {module}", flush=True)
            subprocess.run(["go", "install", module], check=True, env={**os.environ, "GOBIN": str(folder)})


if __name__ == "__main__":
    main()
