"""Policies that meet the worlds: ours, and what it is compared with."""
