"""gesso-serve: the process that prepares a repository, starts Triton and watches it."""
