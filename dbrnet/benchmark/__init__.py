"""How fast a trained network answers on this machine, and how near that is to what the machine can do."""
