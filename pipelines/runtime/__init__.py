"""What the machine and the libraries are: cores, nodes, progress."""
