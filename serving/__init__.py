"""How a detector is run: scorer, account state, campaigns and the command line."""
