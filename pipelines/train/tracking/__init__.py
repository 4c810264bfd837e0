"""What training reports while it runs."""
