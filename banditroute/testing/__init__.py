"""A broker in memory, for tests of your own."""
