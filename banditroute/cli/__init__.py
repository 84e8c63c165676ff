"""The command line: a module per verb, put together in `entry`."""

from banditroute.cli.entry import app, main

__all__ = ["app", "main"]
