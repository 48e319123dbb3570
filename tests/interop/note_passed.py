"""Notes which files of the Python model have passed, for RemoteCode.HasPassedWithTransformersAsItIs of the ordinary suite.

    note_passed.py MODELS VERSION...    the folder of make_models.py, the versions of transformers
"""
import json
import pathlib
import sys
import zlib

NOTE = pathlib.Path(__file__).resolve().parents[1] / "data/interop/remote_code.json"


def main():
    models, *versions = sys.argv[1:]
    export = pathlib.Path(models) / "tpa" / "hf"
    sums = {path.name: zlib.crc32(path.read_bytes()) for path in sorted(export.glob("*.py"))}
    if NOTE.exists() and json.loads(NOTE.read_text())["crc32"] == sums:
        return
    NOTE.write_text(json.dumps({"transformers": versions, "crc32": sums}, indent=2) + "\n")
    print(f"interop: {NOTE.name} is new; commit it")


if __name__ == "__main__":
    main()
