"""The alignment methods, one file each; the catalog lists them."""
