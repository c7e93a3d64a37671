"""All of a GPU's numbers, in one report."""
