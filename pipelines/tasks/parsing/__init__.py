"""Reading a teacher's or a student's text."""
