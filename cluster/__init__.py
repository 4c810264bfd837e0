"""The command line, and how Ray is started."""
