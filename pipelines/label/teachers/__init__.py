"""Teachers: engines that answer prompts, behind one protocol (base.py)."""
