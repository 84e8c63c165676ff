"""Replays a data set through the product's own decisions and learning, and compares with hindsight."""
