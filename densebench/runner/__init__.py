"""A request on its way: checked, planned, run, recorded."""
