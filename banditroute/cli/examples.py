"""An example per command, shown at the end of its help."""

from __future__ import annotations

from typing import Final

import typer

C: Final = "-c banditroute.toml"

#: Command, what comes after it, and what that does. A test parses every one of them.
EXAMPLES: Final[tuple[tuple[str, str, str], ...]] = (
    ("init", "> banditroute.toml", "an annotated example"),
    ("init", "--dataset data/mine > banditroute.toml", "with the models and prices of a data set"),
    (
        "init",
        "--prices gpt-4o --prices gpt-4o-mini > banditroute.toml",
        "with the list prices of these models",
    ),
    ("run", C, "until SIGTERM"),
    ("run", f"{C} --init", "create what is missing first"),
    ("check", C, "the configuration, the broker, the topics and the state"),
    ("check", f"{C} --offline", "the configuration alone"),
    ("demo", "", "twenty seconds, with a live view"),
    ("demo", "--requests 5000 --json", "for a script"),
    ("demo", "--keep try", "leave a configuration and a data set in try/"),
    ("traffic", f"{C} --dataset data/mine --rate 200", "200 requests per second"),
    ("fit-prior", f"data/mine {C} -o prior.json", "then set learning.prior"),
    ("simulate", "--scenario all --seeds 30 --report simulated.html", "every invented world"),
    ("replay", "--dataset data/mine --cost-weight 20", "beside fixed models, mixes and the oracle"),
    ("evaluate", f"--log exported {C} --cost-weight 50", "what another cost weight would have got"),
    ("export-log", f"{C} -o exported", "decisions and feedback as files"),
    ("rehearse", f"{C} --log exported", "go (0) or no-go (1)"),
    ("topics create", C, "what is missing"),
    ("control price", f"large 2.0 8.0 {C}", "in force from the next decision on"),
    ("control pause", f"large {C}", "in every engine"),
    ("control resume", f"large {C}", "again"),
    ("state inspect", C, "what was learned"),
    ("state export", f"{C} -o state.bin", "keep it in a file"),
    ("state import", f"state.bin {C}", "bring it back"),
    ("state rebuild", f"{C} --publish", "compute it anew from the topics"),
    ("features show", C, "the columns of a context"),
    ("features explain", '--prompt "Translate: good morning" --tag translate', "what the router sees"),
    ("features fit", "data/mine -o features.npz", "then name the file in [features]"),
)


def add_examples(app: typer.Typer, before: str = "") -> None:
    """Append the examples to the help of every command of an application and of its groups."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
        lines = [
            f"  banditroute {verb} {rest}".rstrip() + f"   # {what}"
            for verb, rest, what in EXAMPLES
            if verb == before + name
        ]
        command.epilog = "\b\n" + "\n".join(["Examples:", *lines]) if lines else None
    for group in app.registered_groups:
        if group.typer_instance is not None and group.name:
            add_examples(group.typer_instance, f"{group.name} ")
