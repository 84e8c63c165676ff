"""Open decisions and the votes on them, in arrays."""
