"""Stages as RayJobs of a KubeRay cluster."""
