"""Starting chains: the command line, the walk over a plan, one stage in one process group."""
