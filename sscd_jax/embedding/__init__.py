"""Images to descriptors: in memory, as a folder, as files for other tools."""
