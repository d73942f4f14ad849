"""A job's history beside its ZeusJob: what `kubectl zeus history`, `explain` and `report` read.

The operator writes it into a ConfigMap and never reads it back: the store alone knows.
"""
