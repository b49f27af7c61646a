"""One look for every page, picture and table that unweave writes."""
