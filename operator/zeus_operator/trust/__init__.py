"""Trust between pods and agents: one authority, the agents' certificate, and who gets to know it.

`certificates` makes and reads them, `plan` decides what is due (pure), `objects` says what the
objects in the cluster look like, `keeper` reads and writes them.
"""
