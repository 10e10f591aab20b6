"""`python -m mneme` is `mneme`."""

import os
import sys

# gRPC's core would write its own lines about what is reported below in a sentence.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
try:
    from mneme.cli.app import main
except ModuleNotFoundError as missing:
    # The base install is the client alone.
    sys.exit(f"the command needs the package '{missing.name}': install mneme[cli,server,embedded]")

if __name__ == "__main__":
    main()
