"""gesso beside its peers on a CPU."""
