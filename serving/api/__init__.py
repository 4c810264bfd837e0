"""HTTP: routes, requests, responses, errors."""
