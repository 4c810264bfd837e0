"""From an example to a prompt, and from the teacher's answers to a label or a reject."""
