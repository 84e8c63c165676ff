"""The demo: an invented world, a broker, the engine and its traffic in one process."""
