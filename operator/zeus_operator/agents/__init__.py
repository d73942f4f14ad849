"""What the agents know of the runs on their nodes, and the operator wants to: progress and results.

`reports` and `endpoints` read what comes (pure), `client` asks one agent by `bounded_http`,
`directory` knows where they are and `silence` which do not answer, `progress` keeps what was heard
last, `reader` asks those that have to be asked, `side` runs all of it beside the workers.
"""
