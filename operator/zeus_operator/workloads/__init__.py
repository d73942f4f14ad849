"""One adapter for each kind of child: where its pods are, what is owned, how it stands."""
