"""The alignment methods of the catalog, one file each."""
