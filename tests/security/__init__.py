"""The rows of the security requirements, one test module per letter."""
