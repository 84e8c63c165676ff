"""Which cost weight is in force, and what exploration is allowed to cost."""
