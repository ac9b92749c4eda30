"""What a training step will need on devices that may not be there: the step itself is compiled for them, and what the
compiler says is read.

`topology` gives the devices, `hlo` reads the compiled program, `buffers` its memory, `planner` makes a plan of both,
`advice` looks for changes and other settings, `report` writes it for people.
"""
