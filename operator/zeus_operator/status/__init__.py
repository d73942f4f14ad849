"""What is shown of a ZeusJob: its `.status` and Events, projected from facts.  Pure."""
