"""What several verbs share: options that mean the same wherever they are given."""

from __future__ import annotations

from typing import Annotated

import typer

AllowDropped = Annotated[
    float,
    typer.Option(
        "--allow-dropped",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Go on although up to this share of the feedback cannot be used.",
    ),
]
