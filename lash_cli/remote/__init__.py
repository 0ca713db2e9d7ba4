"""JSON lines over standard input and output."""
