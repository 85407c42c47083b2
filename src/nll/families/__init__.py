"""Distribution families."""
