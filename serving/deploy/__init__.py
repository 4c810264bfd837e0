"""From students to a running endpoint."""
