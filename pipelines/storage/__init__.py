"""Folders, manifests, fingerprints and locks."""
