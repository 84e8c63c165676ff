"""Arithmetic in a fixed order: vector products, random numbers, hashes, arrays found by their address."""
