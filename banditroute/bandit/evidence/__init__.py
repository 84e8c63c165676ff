"""Evidence: everything that was learned, as sums that can be added and taken back."""
