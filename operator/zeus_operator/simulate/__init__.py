"""Trace-driven simulation: what a policy would have cost on recorded runs."""
