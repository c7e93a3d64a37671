"""Asks the served model about scenes it has never seen, and measures what comes back (`make eval-demo-model`)."""
