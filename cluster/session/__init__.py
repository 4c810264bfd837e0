"""Ray for one command: connect or start it, check resources and nodes, wait for nodes of an autoscaler."""
