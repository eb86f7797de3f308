"""What the leader knows of the channels between TaskManagers: who was heard when, and who lost whom. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Channels:
    heard: dict[str, float] = field(default_factory=dict)
    """When the leader last heard of an instance."""
    suspects: dict[str, float] = field(default_factory=dict)
    """Instances that were silent when a channel to them was lost, and until when the next attempt waits for them."""
    quarrels: dict[frozenset[str], float] = field(default_factory=dict)
    """Pairs of instances that have lost each other while both were heard, and when."""

    def note(self, instance: str, now: float) -> None:
        self.heard[instance] = now
        self.suspects.pop(instance, None)

    def forget(self, instance: str) -> None:
        self.heard.pop(instance, None)
        self.suspects.pop(instance, None)
        self.quarrels = {pair: at for pair, at in self.quarrels.items() if instance not in pair}

    def awaited(self, now: float) -> list[str]:
        return [instance for instance, until in self.suspects.items() if now < until]
