"""Files and archives: what is in them, id lists, how labels are stored. It knows no dataset."""
