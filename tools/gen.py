"""Regenerates everything that is derived: gRPC stubs and their types. `--check` fails on any difference instead."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = ROOT / "services"
SCRIPTS = Path(sys.executable).parent


def generate(target: Path) -> list[Path]:
    """Writes Python code and type stubs of all contracts below `target`; returns the files, relative to it."""
    well_known = Path(protoc.__file__).parent / "_proto"
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    services = [name for name in sources if "\nservice " in (PROTOS / name).read_text(encoding="utf-8")]
    plugins = [f"--plugin={name}={SCRIPTS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    common = ["protoc", f"-I{PROTOS}", f"-I{well_known}", *plugins]
    run([*common, f"--python_out={target}", f"--mypy_out=quiet:{target}", *sources])
    if services:
        run([*common, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *services])
    for folder in {(target / name).parent for name in sources}:
        (folder / "__init__.py").touch()
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def run(arguments: list[str]) -> None:
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; see the message above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        files = generate(target)
        stale = [f for f in files if not same(target / f, PACKAGE / f)]
        known = set(files)
        present = [path.relative_to(PACKAGE) for path in PACKAGE.glob("mneme/*/v1/*_pb2*")]
        orphans = [path for path in present if path not in known]
        if check and (stale or orphans):
            names = "\n  ".join(str(f) for f in [*stale, *orphans])
            raise SystemExit(f"generated code is out of date; run `make gen`:\n  {names}")
        for f in stale:
            (PACKAGE / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target / f, PACKAGE / f)
        for f in orphans:
            (PACKAGE / f).unlink()
    sys.stdout.write(f"{len(files)} generated files, {len(stale)} changed, {len(orphans)} removed\n")


def same(new: Path, old: Path) -> bool:
    return old.exists() and filecmp.cmp(new, old, shallow=False)


if __name__ == "__main__":
    main()
