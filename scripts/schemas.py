"""Write JSON Schemas of everything on the wire into schemas/, from the structs of banditroute.events.

    python scripts/schemas.py            # write what is missing or stale, remove what is no longer there
    python scripts/schemas.py --check    # write nothing; exit 1 when something is stale

What a schema cannot say is left to the decoder: finite numbers, bytes instead of characters, "one of prompt, messages,
context and embedding". A document that a schema refuses is refused by the decoder, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "schemas"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def events() -> dict[str, tuple[Any, str]]:
    """Return name of the file -> (type on the wire, title)."""
    from banditroute import events as wire  # noqa: PLC0415 - --help needs nothing installed

    return {
        "request": (wire.Request, "Request"),
        "feedback": (wire.Feedback, "Feedback"),
        "decision": (wire.Decision, "Decision"),
        "journal": (wire.JournalRecord, "Journal record"),
        "control": (wire.Edit, "Control edit"),
        "dead-letter": (wire.DeadLetter, "Dead letter"),
        "refusal": (wire.Refusal, "Reply to a request that was refused"),
        "alert": (wire.Alert, "Alert"),
    }


# What the type of a field cannot say: only a withdrawal that names its voter is about no request.
_ABOUT: Final[dict[str, Any]] = {
    "if": {"required": ["request_id"], "properties": {"request_id": {"type": "string"}}},
    "else": {
        "required": ["voter"],
        "properties": {
            "kind": {"const": "withdraw"},
            "voter": {"type": "string"},
            "decision_id": {"type": "null"},
        },
    },
}


def schemas() -> dict[str, str]:
    """Return name of the file -> text: sorted, indented, the same on every machine."""
    texts = {}
    for name, (kind, title) in events().items():
        schema: dict[str, Any] = {"$schema": DIALECT, "title": title, **_plain(msgspec.json.schema(kind))}
        if "Feedback" in schema["$defs"]:
            schema["$defs"]["Feedback"] |= _ABOUT
        texts[f"{name}.json"] = json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return texts


def _plain(node: Any) -> Any:
    """Join the lines of descriptions: docstrings are wrapped for people who read the source."""
    if isinstance(node, Mapping):
        return {
            key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _plain(value)
            for key, value in node.items()
        }
    return [_plain(item) for item in node] if isinstance(node, list) else node


def stale(folder: Path) -> list[str]:
    """Return what is missing, outdated or left over in a folder."""
    wanted = schemas()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def write(folder: Path) -> list[str]:
    """Bring a folder up to date and return what changed."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, changed = schemas(), stale(folder)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is stale")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.check:
        names = stale(options.folder)
        if names:
            print(f"schemas: out of date: {', '.join(names)}; run `make schemas`", file=sys.stderr)
        return int(bool(names))
    for name in write(options.folder):
        print(f"schemas/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
