"""The models that a node serves: from their files to running runtimes, within its memory."""
