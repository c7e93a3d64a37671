"""Proof that a bundle is what it should be: what networks are tried out on, their reference answers, and the checks."""
