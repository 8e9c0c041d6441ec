"""Tests that call a real phone through a real carrier. README.md says how to run them."""
