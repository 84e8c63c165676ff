"""Data sets: a table of prompts and of what every model made of them, read, checked and encoded."""
