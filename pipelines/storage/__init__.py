"""Folders, manifests, fingerprints and locks, on local disks and object stores."""
