"""The engine and its tasks."""
