"""Rehearses a rollout on the user's own data set or log: what it would save, what it could break, how sure that is."""
