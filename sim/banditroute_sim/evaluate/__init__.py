"""Off-policy evaluation: what another policy would have got, from a log of decisions, propensities and feedback."""
