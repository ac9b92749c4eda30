"""Tasks: what is trained. Towers, losses, and the state that they keep between steps."""

from bigcl.tasks.task import Task

__all__ = ["Task"]
