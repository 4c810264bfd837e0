"""Run files that ship, and the corpora of our own making that the quickstart runs on."""
