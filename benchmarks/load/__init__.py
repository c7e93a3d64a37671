"""The scheduler under load: every policy gets the same requests at the same moments."""
