"""Items: the example of a resource, to copy or to delete."""
