"""In: students. Out: an endpoint."""
