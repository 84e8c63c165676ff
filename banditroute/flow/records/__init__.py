"""What is on the wire of our own topics: headers, states, positions."""
