"""Builds the project's container images without a registry or a daemon."""
