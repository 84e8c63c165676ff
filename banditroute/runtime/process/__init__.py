"""A process around an engine: signals, logs, metrics, the garbage collector."""
