"""What a scheduler has counted."""

from dataclasses import dataclass

__all__ = ["SchedulerStats"]


@dataclass
class SchedulerStats:
    """Counters since the model was opened; `running` and `waiting` are of this moment, seconds are sums."""

    slots: int = 0
    running: int = 0
    waiting: int = 0
    requests: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    forks: int = 0
    completion_tokens: int = 0
    preemptions: int = 0
    guessed_tokens: int = 0
    right_tokens: int = 0
    restarts: int = 0
    step_seconds: float = 0.0
    compute_seconds: float = 0.0
    sample_seconds: float = 0.0
