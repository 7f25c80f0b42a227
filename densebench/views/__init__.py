"""What trainings and encoders are shown of an image: which views, in which order, and the one loader of all of them."""
