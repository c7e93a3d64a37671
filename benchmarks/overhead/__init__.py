"""Where a server's time outside the engines goes."""
