"""In: corpus. Out: labels."""
