"""The three classes of requests."""

# How much later a request of each class is due: strict in practice, yet nothing waits for ever.
CLASS_SECONDS = {"interactive": 0.0, "normal": 300.0, "background": 1200.0}
NORMAL = "normal"


def due(priority: str, submitted: float) -> float:
    """When a request of a class that came at `submitted` counts as one of the highest, on the same clock."""
    return submitted + CLASS_SECONDS[priority]
