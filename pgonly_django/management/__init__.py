"""The commands, and what they share: how jobs are chosen and shown, and what `pgonly_health` checks."""
