"""Topics and what they hold: created, restored, shown, rebuilt."""
