"""Teachers: engines that answer prompts. base.py has their protocol, registry.py names them."""
