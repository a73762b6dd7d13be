"""Training: losses, metrics, configs and the two trainers. The only room that knows TRL."""
