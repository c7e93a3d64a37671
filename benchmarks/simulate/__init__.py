"""The scheduler under load, without a server: the policies' own code on a virtual clock."""
