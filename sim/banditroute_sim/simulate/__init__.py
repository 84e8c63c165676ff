"""Simulation: policies against worlds we know, seed by seed, every policy in the same world."""
