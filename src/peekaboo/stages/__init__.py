"""One module per stage of the workflow, each a few functions over arrays and a short main."""
