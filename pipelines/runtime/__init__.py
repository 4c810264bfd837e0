"""Machine and libraries: cores, nodes, progress, durations, private names of libraries."""
