"""From evidence to the posterior: prior, sums, kinds of feedback, tokens and latency."""
