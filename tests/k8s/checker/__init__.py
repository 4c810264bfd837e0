"""Kubernetes objects held against what would refuse them: the API server, the KubeRay operator, Pod validation, Ray Serve."""
