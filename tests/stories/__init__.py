"""What the README tells as stories, as a person lives them: at terminals, by typing.

terminal    a program in a pseudo-terminal: type, wait for what is on the screen, leave no process behind
desk        the terminals of a story, in homes of their own, and its recording
stories     the stories themselves
frames      what a recording looks like at any time
svg, cast   a recording as a moving picture for the docs, and as an asciicast

`python -m tests.stories.record` (or `make stories`) plays them and writes docs/stories/.
"""
