"""Ray jobs on a cluster."""
