"""Everything the program needs on one machine: its folder, database, GPU and agent."""
