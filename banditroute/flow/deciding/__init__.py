"""From request records to decision records."""
