"""`python -m mneme` is `mneme`."""

import sys

try:
    from mneme.cli.app import main
except ModuleNotFoundError as missing:
    # The base install is the client alone.
    sys.exit(f"the command needs the package '{missing.name}': install mneme[cli,server,embedded]")

if __name__ == "__main__":
    main()
