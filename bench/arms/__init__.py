"""What is compared: an arm a file. `every` lists them; a further arm is a file here and a line there."""
