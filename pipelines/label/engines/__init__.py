"""Teacher actors in the cluster, and their health."""
