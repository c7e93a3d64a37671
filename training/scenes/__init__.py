"""Pictures that draw themselves: landscapes with coloured things in them, each a function of its seed."""

from training.scenes.colours import COLOURS
from training.scenes.objects import KINDS
from training.scenes.scene import Placed, Scene, draw

__all__ = ["COLOURS", "KINDS", "Placed", "Scene", "draw"]
