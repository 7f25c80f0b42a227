"""Workers for a grid of cells: started here, each a process of its own that runs `densebench work`."""
