"""From an example to a prompt, and from answers to a label or a reject."""
