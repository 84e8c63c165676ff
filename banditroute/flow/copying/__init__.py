"""From feedback records to the journals where they belong."""
