"""What computes a network, each engine a module of this package."""
